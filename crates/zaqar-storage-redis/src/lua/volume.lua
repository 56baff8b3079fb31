-- The number of claimed messages and of all others in a queue. The script knows no time, so due
-- claims and delays that were not applied yet count by their old state.
local base = string.sub(KEYS[1], 1, -2)
return {
  redis.call('ZCARD', base .. 'c'),
  redis.call('ZCARD', base .. 'f') + redis.call('ZCARD', base .. 'd')
}
