-- Closes the head with everything in it.
local low, high = span()
local entries = call('EXISTS', base .. 'ow', base .. 'or', base .. 'of') > 0
if low <= high or entries then
  local at = unpromised(now)
  if at then return {'hint', at} end
end
if entries then
  for _, key in ipairs({'ow', 'or', 'of'}) do
    if call('EXISTS', base .. key) == 1 then call('RENAME', base .. key, base .. key .. ':' .. head[1]) end
  end
  -- The places of a next life are behind the last item's.
  call('RPUSH', base .. 'g', 'o ' .. head[1])
  if low > high then call('RPUSH', base .. 'g', string.format('b %.0f %.0f', high + 1, high)) end
end
clear(low, high)
unlink('od', 'ox', 's', 'sx', 'sl', 'sn', 'si', 'r0', 'r1', 't0', 't1')
call('DEL', KEYS[1])
return {'done'}
