-- Removes a subscription, by its id ARGV[4], and says which lease it hung on; all of them where it
-- is empty.
if answered then return {'done', answered} end
if call('EXISTS', base .. 'oe') == 1 then
  -- Entries that nobody wants any more wait for a sweep.
  local at = unpromised(now)
  if at then return {'hint', at} end
  save()
end
if ARGV[4] == '' then
  call('UNLINK', base .. 's', base .. 'sx', base .. 'sl', base .. 'sm', base .. 'sn', base .. 'si')
  call('HDEL', KEYS[1], 's')
  return {'done', ''}
end
local row = subscription(ARGV[4])
unsubscribe(ARGV[4])
local lease = row and row[6] or ''
if lease ~= '' then remember(lease) end
return {'done', lease}
