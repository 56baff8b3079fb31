local is_settling = false
if head[1] and call('HEXISTS', KEYS[1], 'u') == 1 then done, is_settling, due = settle(now) end
if head[1] and due <= now and done < budget and not is_settling then
  done = done + end_due(budget - done)
end

if head[1] and done < budget then
  local ids = expired_members('sx', budget - done)
  for _, id in ipairs(ids) do unsubscribe(id) end
  done = done + #ids
end

if head[1] and done < budget then done = done + end_unwanted(budget - done) end
if head[1] and done < budget then done = done + unfollow(budget - done) end

-- Deletes the chunks of purged or closed messages. Answers whether all are deleted.
local function collect_messages(name)
  local key, chunks = base .. 'x:' .. name, {}
  local positions = call('ZPOPMIN', key, budget - done)
  for i = 1, #positions, 2 do
    local chunk = covered_chunk(positions[i]) or chunk_of(positions[i])
    if chunk then chunks[chunk] = true end
  end
  for chunk in pairs(chunks) do call('UNLINK', base .. string.format('b:%.0f', chunk)) end
  done = done + #positions / 2
  return call('EXISTS', key) == 0
end

-- Deletes the entries of a closed head. Answers whether all are deleted.
local function collect_entries(name)
  for _, key in ipairs({'oe:', 'of:'}) do
    key = base .. key .. name
    local entries = call('ZPOPMIN', key, budget - done)
    for i = 1, #entries, 2 do call('UNLINK', base .. 'o:' .. entries[i]) end
    done = done + #entries / 2
    if call('EXISTS', key) == 1 then return false end
  end
  return true
end

while done < budget do
  local kind, name = string.match(call('LINDEX', base .. 'g', 0) or '', '^(%a) (%d+) ')
  local is_all = true
  if kind == 'x' then
    is_all = collect_messages(name)
  elseif kind == 'o' then
    is_all = collect_entries(name)
  end
  if not is_all then break end
  if not call('LPOP', base .. 'g') then break end
end

local next = due
if head[1] then next = math.min(due, first_score('sx'), first_score('ox'), first_score('oe')) end
local is_left = next <= now or call('EXISTS', base .. 'g') == 1
if head[1] then
  local fields = {'n', now, 'd', due == math.huge and '' or due}
  if not is_left then
    fields[5], fields[6] = 'a', next == math.huge and '' or next
  end
  call('HSET', KEYS[1], unpack(fields))
end
local expired = tonumber(head[1] and call('HGET', KEYS[1], 'x') or 0)
if expired ~= 0 then call('HDEL', KEYS[1], 'x') end
return {done, is_left and 1 or 0, next == math.huge and '' or next, expired}
