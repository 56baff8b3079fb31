-- Closes the head and discards everything in it.
local has_entries = call('EXISTS', base .. 'oe', base .. 'of') > 0
if has_entries or call('EXISTS', base .. 'x') == 1 then
  local at = needs_schedule(now)
  if at then return {'schedule', at} end
end
clear()
if has_entries then
  for _, key in ipairs({'oe', 'of'}) do
    if call('EXISTS', base .. key) == 1 then
      call('RENAME', base .. key, base .. key .. ':' .. head[1])
    end
  end
  call('RPUSH', base .. 'g', string.format('o %s %.0f', head[1], chunk_end()))
end
unlink('ow', 'or', 'od', 'ol', 'ox', 's', 'so', 'sx', 'sl', 'sm', 'sn', 'si', 't0', 't1')
call('DEL', KEYS[1])
remember('closed')
return {'done'}
