-- The number of claimed messages and of all others in a queue. The script knows no time, so due
-- claims and delays that were not applied yet count by their old state.
local base = string.sub(KEYS[1], 1, -2)
-- Of a post that is not settled yet: see settle.lua.
local rest = redis.call('HGET', KEYS[1], 'u')
local unsettled = rest and tonumber(string.match(rest, '^%x+ %d+ (%d+)')) or 0
-- As `read_fresh` in messages.lua.
local last, cursor, others = unpack(redis.call('HMGET', KEYS[1], 'p', 'q', 'h'))
local fresh = cursor and last + 1 - cursor - others or 0
return {
  redis.call('ZCARD', base .. 'c'),
  redis.call('ZCARD', base .. 'f') + redis.call('ZCARD', base .. 'd') + fresh + unsettled
}
