-- Changes a subscription. ARGV[5] is its id; then come pairs, the first of which is set where the second counts: subscriber, life in
-- milliseconds, ttl, options, whether confirmed.
local id = ARGV[5]
if is_over(id) then return {'none'} end
local row = subscription(id)
if ARGV[6] ~= '' then
  local other = subscribed(ARGV[7])
  if other and other ~= id then return {'duplicate'} end
end
if ARGV[8] ~= '' then
  local expires = math.min(now + tonumber(ARGV[9]), FOREVER)
  local at = unpromised(expires)
  if at then return {'hint', at} end
  row[1], row[2] = ARGV[11], string.format('%.0f', now)
  call('ZADD', base .. 'sx', expires, id)
  if row[6] ~= '' then call('ZADD', base .. 'sl', expires, id) end
  save('s', math.max(expires, tonumber(call('HGET', KEYS[1], 's') or 0)))
end
if ARGV[6] ~= '' then
  local other = call('HGET', base .. 'sn', ARGV[7])
  if other and other ~= id then unsubscribe(other) end
  if call('HGET', base .. 'sn', row[4]) == id then call('HDEL', base .. 'sn', row[4]) end
  row[4] = ARGV[7]
  call('HSET', base .. 'sn', row[4], id)
end
if ARGV[12] ~= '' then row[5] = ARGV[13] end
if ARGV[14] ~= '' then row[3] = ARGV[15] end
call('HSET', base .. 's', id, cmsgpack.pack(row))
return {'done'}
