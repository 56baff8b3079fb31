-- Ends a claim, by its id ARGV[5].
if tonumber(call('ZSCORE', base .. 'e', ARGV[5]) or 0) > now then release(ARGV[5]) end
return {'done'}
