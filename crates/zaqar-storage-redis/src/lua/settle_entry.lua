-- Ends the entry ARGV[5].
call('ZREM', base .. 'ow', ARGV[5])
call('ZREM', base .. 'or', ARGV[5])
call('ZREM', base .. 'od', ARGV[5])
-- What can be followed still stays until it cannot.
if not call('ZSCORE', base .. 'ox', ARGV[5]) then call('UNLINK', base .. 'o:' .. ARGV[5]) end
return {'done'}
