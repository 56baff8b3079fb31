return redis.call('HLEN', string.sub(KEYS[1], 1, -2) .. 'r')
