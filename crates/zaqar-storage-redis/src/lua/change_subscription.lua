-- Changes a subscription. ARGV[4] is its id, followed by pairs of a flag and a value that is used
-- if the flag is set: subscriber, ttl in milliseconds, ttl in seconds, options, whether confirmed.
local id = ARGV[4]
local row = not is_expired(id) and subscription(id)
if not row then return {'none'} end
if ARGV[5] ~= '' then
  local other = subscribed(ARGV[6])
  if other and other ~= id then return {'duplicate'} end
end
if ARGV[7] ~= '' then
  local expires = math.min(now + tonumber(ARGV[8]), FOREVER)
  local at = needs_schedule(expires)
  if at then return {'schedule', at} end
  row[1], row[2] = ARGV[10], string.format('%.0f', now)
  call('ZADD', base .. 'sx', expires, id)
  if row[6] ~= '' then call('ZADD', base .. 'sl', expires, id) end
  save('s', math.max(expires, tonumber(call('HGET', KEYS[1], 's') or 0)))
end
if ARGV[5] ~= '' then
  local other = call('HGET', base .. 'sn', ARGV[6])
  if other and other ~= id then unsubscribe(other) end
  if call('HGET', base .. 'sn', row[4]) == id then call('HDEL', base .. 'sn', row[4]) end
  row[4] = ARGV[6]
  call('HSET', base .. 'sn', row[4], id)
end
if ARGV[11] ~= '' then row[5] = ARGV[12] end
if ARGV[13] ~= '' then row[3] = ARGV[14] end
store_subscription(id, row)
return {'done'}
