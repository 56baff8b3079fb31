-- Removes every message and claim.
if answered then return {'done'} end
if call('EXISTS', base .. 'x') == 1 then
  local at = unpromised(now)
  if at then return {'hint', at} end
end
local has_cleared = clear()
due = math.huge
-- What comes next begins a chunk of its own: the sweep removes whole ones.
save('p', has_cleared and string.format('%.0f', chunk_end()) or head[3])
remember('purged')
return {'done'}
