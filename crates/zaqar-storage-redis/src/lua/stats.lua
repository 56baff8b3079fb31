-- Counts, and the oldest and newest message.
local MAX_SCANNED, MAX_BYTES, PAGE = 1000, 1048576, 100
local bytes, keys = 0, {'f', 'c', 'd'}

local function read(key, from, count, is_last)
  if is_last then return call('ZRANGE', base .. key, from, from + count - 1, 'REV') end
  return call('ZRANGE', base .. key, from, from + count - 1)
end

-- The record of a message if it is live.
local function live_record(position, own)
  local chunk, record = chunk_of(position), nil
  if chunk and (not own or tonumber(own) > now) then
    record = call('HGET', base .. 'b:' .. chunk, position % 256)
  end
  bytes = bytes + (record and #record or 0)
  if record and tonumber(own or end_by_record(record) or 0) > now then return record end
end

-- The first or last live position of a state, and its record.
local function find_in_state(key, is_last)
  for from = 0, MAX_SCANNED - PAGE, PAGE do
    local positions = read(key, from, PAGE, is_last)
    for i, own in ipairs(read_many('ZMSCORE', 'x', positions)) do
      local record = live_record(positions[i], own)
      if record then return tonumber(positions[i]), record end
      if bytes >= MAX_BYTES then return nil end
    end
    if #positions < PAGE then return nil end
  end
end

-- The first or last live position of all states, and its record. It is nearly always the one at the
-- end, which is read alone before others are.
local function find(is_last)
  local best
  local function is_better(position)
    return not best or is_last and position > best or not is_last and position < best
  end
  for _, key in ipairs(keys) do
    local position = tonumber(read(key, 0, 1, is_last)[1] or nil)
    if position and is_better(position) then best = position end
  end
  if not best then return nil end
  local name = decimal(best)
  local record = live_record(name, call('ZSCORE', base .. 'x', name))
  if record then return best, record end
  best = nil
  for _, key in ipairs(keys) do
    local position, found = find_in_state(key, is_last)
    if position and is_better(position) then best, record = position, found end
  end
  return best, record
end

local first, first_record = find(false)
local last, last_record = find(true)
local answer = {'done', head[1]}
for _, key in ipairs(keys) do answer[#answer + 1] = call('ZCARD', base .. key) end
if first and last then
  answer[#answer + 1], answer[#answer + 2] = first, created(first_record)
  answer[#answer + 1], answer[#answer + 2] = last, created(last_record)
end
return answer
