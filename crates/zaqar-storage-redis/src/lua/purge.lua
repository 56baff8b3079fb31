-- Deletes all messages and claims.
if answered then return {'done'} end
if call('EXISTS', base .. 'x') == 1 then
  local at = needs_schedule(now)
  if at then return {'schedule', at} end
end
local has_cleared = clear()
due = math.huge
-- Later messages begin a new chunk, because the sweep deletes whole chunks.
save('p', has_cleared and string.format('%.0f', chunk_end()) or head[3])
remember('purged')
return {'done'}
