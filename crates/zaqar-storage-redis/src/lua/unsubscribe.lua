-- Deletes the subscription ARGV[4] and answers its lease; all subscriptions if ARGV[4] is empty.
if answered then return {'done', answered} end
if call('EXISTS', base .. 'oe') == 1 then
  -- A sweep ends the entries that have no subscriber left.
  local at = needs_schedule(now)
  if at then return {'schedule', at} end
  save()
end
if ARGV[4] == '' then
  call('UNLINK', base .. 's', base .. 'so', base .. 'sx', base .. 'sl', base .. 'sm', base .. 'sn', base .. 'si')
  call('HDEL', KEYS[1], 's')
  return {'done', ''}
end
local row = small_row(ARGV[4])
unsubscribe(ARGV[4])
local lease = row and row[6] or ''
if lease ~= '' then remember(lease) end
return {'done', lease}
