-- Counts, and the oldest and newest message.
local MAX_CHUNKS_READ, MAX_SCANNED, MAX_BYTES = 20, 1000, 1048576
local bytes, scanned = 0, 0

-- The next chunk from one on that may contain messages, or the last one up to it.
local function next_chunk(chunk, is_last)
  local best
  for key, size in pairs({f = 256, c = 256, d = 256, q = 1}) do
    local found
    if is_last then
      found = call('ZRANGE', base .. key, (chunk + 1) * size - 1, '-inf', 'BYSCORE', 'REV', 'LIMIT', 0,
        1, 'WITHSCORES')
    else
      found = call('ZRANGE', base .. key, chunk * size, '+inf', 'BYSCORE', 'LIMIT', 0, 1, 'WITHSCORES')
    end
    local next = found[2] and math.floor(found[2] / size)
    if next and (not best or is_last and next > best or not is_last and next < best) then
      best = next
    end
  end
  return best
end

-- A position before which no message is stored, mostly that of the first one; nil without messages.
local function first_position()
  local first = tonumber(head[9] or nil) or math.huge
  if first > tonumber(head[3]) then first = math.huge end
  for _, key in ipairs({'f', 'c', 'd'}) do
    local position = tonumber(call('ZRANGE', base .. key, 0, 0)[1] or nil)
    if position and position < first then first = position end
  end
  return first < math.huge and first or nil
end

-- The record of a message if it is live.
local function live_record(position)
  local name = decimal(position)
  local own = tonumber(call('ZSCORE', base .. 'x', name) or nil)
  if own and own <= now then return nil end
  local record = call('HGET', base .. 'b:' .. chunk_of(position), position % 256)
  bytes, scanned = bytes + (record and #record or 0), scanned + 1
  if record and (own or end_by_record(record) or 0) > now then return record end
end

-- The first or last live position and its record. It is nearly always the one at the end, which is
-- read before it looks which positions of a chunk are stored.
local function find(is_last)
  bytes, scanned = 0, 0
  local position = is_last and tonumber(head[3]) or first_position()
  local record = position and live_record(position)
  if record then return position, record end
  local chunk, step = position and chunk_of(position), is_last and -1 or 1
  for _ = 1, MAX_CHUNKS_READ do
    chunk = chunk and next_chunk(chunk, is_last)
    if not chunk then return nil end
    local first, is_stored = chunk * 256, stored_in(chunk)
    for at = is_last and first + 255 or first, is_last and first or first + 255, step do
      record = is_stored[at] and live_record(at)
      if record then return at, record end
      if scanned >= MAX_SCANNED or bytes >= MAX_BYTES then return nil end
    end
    chunk = chunk + step
  end
end

local first, first_record = find(false)
local last, last_record = find(true)
local _, fresh = read_fresh()
local answer = {'done', head[1], call('ZCARD', base .. 'f') + fresh}
for _, key in ipairs({'c', 'd'}) do answer[#answer + 1] = call('ZCARD', base .. key) end
if first and last then
  answer[#answer + 1], answer[#answer + 2] = first, created(first_record)
  answer[#answer + 1], answer[#answer + 2] = last, created(last_record)
end
return answer
