-- What a queue holds: claimed, and all else. No time is known, so what has come due and was not moved counts as it was.
return {
  redis.call('ZCARD', string.sub(KEYS[1], 1, -2) .. 'c'),
  redis.call('ZCARD', string.sub(KEYS[1], 1, -2) .. 'f') + redis.call('ZCARD', string.sub(KEYS[1], 1, -2) .. 'd')
}
