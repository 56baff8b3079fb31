-- What a queue holds: claimed, and all else. No time is known, so what has come due and was not
-- moved counts as it was.
local base = string.sub(KEYS[1], 1, -2)
return {
  redis.call('ZCARD', base .. 'c'),
  redis.call('ZCARD', base .. 'f') + redis.call('ZCARD', base .. 'd')
}
