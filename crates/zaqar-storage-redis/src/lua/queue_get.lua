-- The row of the queue ARGV[1].
return redis.call('HGET', string.sub(KEYS[1], 1, -2) .. 'r', ARGV[1])
