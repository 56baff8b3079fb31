-- Subscribes. ARGV[4] is the id, ARGV[5] the ttl in milliseconds, then ttl in seconds, whether
-- confirmed, subscriber, options, lease. Answers the last position.
local id, subscriber = ARGV[4], ARGV[8]
local other = subscribed(subscriber)
if other == id then return {'done', head[3]} end
if other then
  local answer = {'exists'}
  append_subscription(answer, other, subscription(other))
  return answer
end
local expires = math.min(now + tonumber(ARGV[5]), FOREVER)
local at = needs_schedule(expires)
if at then return {'schedule', at} end
-- What was posted to earlier subscribers is not for this one: the sweep that ends it may be to
-- come.
if call('EXISTS', base .. 'oe') == 1 and not is_wanted() and end_unwanted(250) == 250 then
  return {'again'}
end
other = call('HGET', base .. 'sn', subscriber)
if other then unsubscribe(other) end
local row = {ARGV[6], string.format('%.0f', now), ARGV[7], subscriber, ARGV[9], ARGV[10]}
store_subscription(id, row)
call('HSET', base .. 'sn', subscriber, id)
call('ZADD', base .. 'sx', expires, id)
if ARGV[10] ~= '' then
  call('ZADD', base .. 'sl', expires, id)
  call('ZADD', base .. 'sm', 0, ARGV[10] .. id)
end
call('ZADD', base .. 'si', 0, id)
save('s', math.max(expires, tonumber(call('HGET', KEYS[1], 's') or 0)))
return {'done', head[3]}
