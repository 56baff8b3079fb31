-- Ends the entry ARGV[5].
call('ZREM', base .. 'ow', ARGV[5])
call('ZREM', base .. 'or', ARGV[5])
call('ZREM', base .. 'od', ARGV[5])
call('UNLINK', base .. 'o:' .. ARGV[5])
return {'done'}
