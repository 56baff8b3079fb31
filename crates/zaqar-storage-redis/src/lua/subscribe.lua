-- Subscribes. ARGV[5] is the id, ARGV[6] the life in milliseconds, then ttl, whether confirmed, subscriber, options,
-- lease. Says what the last place is.
local id, subscriber = ARGV[5], ARGV[9]
local other = subscribed(subscriber)
if other == id then return {'done', head[3]} end
if other then
  local answer = {'exists'}
  tell(answer, other, subscription(other))
  return answer
end
local expires = math.min(now + tonumber(ARGV[6]), FOREVER)
local at = unpromised(expires)
if at then return {'hint', at} end
other = call('HGET', base .. 'sn', subscriber)
if other then unsubscribe(other) end
call('HSET', base .. 's', id, cmsgpack.pack({ARGV[7], string.format('%.0f', now), ARGV[8], subscriber, ARGV[10], ARGV[11]}))
call('HSET', base .. 'sn', subscriber, id)
call('ZADD', base .. 'sx', expires, id)
if ARGV[11] ~= '' then call('ZADD', base .. 'sl', expires, id) end
call('ZADD', base .. 'si', 0, id)
save('s', math.max(expires, tonumber(call('HGET', KEYS[1], 's') or 0)))
return {'done', head[3]}
