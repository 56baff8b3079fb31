-- Ends a claim, by its id ARGV[4].
if tonumber(call('ZSCORE', base .. 'e', ARGV[4]) or 0) > now then release(ARGV[4]) end
return {'done'}
