-- Fresh messages were posted without a delay and never claimed. They are free, but have no entries
-- in `f`: all records are fresh that are marked (see record.rs) and whose position is at least the
-- cursor, the head's field `q`. The index `q` has the chunks that contain some, and the open one:
-- see cover.lua. The field `h` is how many positions from the cursor to the last one are not those
-- of fresh messages, so that posts and claims in order do not change it.

-- Chunks that one call looks at at once, and bytes of other messages that it reads among them.
local MAX_CHUNKS, MAX_PASSED = 32, 1048576
local passed = 0

-- As the head has it: nil if there was never a fresh message.
local cursor = tonumber(head[9] or nil)

-- Moves the cursor to a position before which no message is fresh.
local function move_cursor(position)
  if not cursor or cursor >= position then return end
  local _, count, last = read_fresh()
  -- This only saves later calls some work if nothing was claimed. So a full server may reject it.
  local set = redis.pcall('HSET', KEYS[1], 'q', position, 'h', last + 1 - position - count)
  if type(set) ~= 'number' then return end
  local before, chunk = math.floor(cursor / 256), math.floor(position / 256)
  cursor = position
  if before == chunk then return end
  for _, member in ipairs(call('ZRANGE', base .. 'q', '-inf', '(' .. chunk, 'BYSCORE')) do
    call('ZREM', base .. 'q', member)
  end
end

-- Adds fresh messages of a chunk between two positions, until there are `limit`. Answers the
-- position up to which these are all: it stops early if it reads much that is not fresh.
local function read_chunk(chunk, first, last, limit, positions, bodies)
  local at, is_stored = first, nil
  while at <= last and #positions < limit and passed < MAX_PASSED do
    local fields, want = {}, limit - #positions
    while at <= last and #fields < want do
      if not is_stored or is_stored[at] then fields[#fields + 1] = at % 256 end
      at = at + 1
    end
    for i, record in ipairs(read_many('HMGET', 'b:' .. chunk, fields)) do
      if record and is_marked(record) then
        positions[#positions + 1] = decimal(chunk * 256 + fields[i])
        bodies[#positions] = record
      else
        passed = passed + (record and #record or 0)
      end
    end
    -- Mostly, all positions are stored. Otherwise it looks which ones are.
    if #positions < limit and at <= last and not is_stored then is_stored = stored_in(chunk) end
  end
  return at - 1
end

-- The first fresh messages between two positions, at most `limit`: positions, records, and the
-- position up to which these are all.
local function fresh_messages(first, last, limit)
  local positions, bodies = {}, {}
  if not cursor then return positions, bodies, last end
  first = math.max(first, cursor)
  local members = call('ZRANGE', base .. 'q', math.floor(first / 256), math.floor(last / 256),
    'BYSCORE', 'LIMIT', 0, MAX_CHUNKS)
  local seen = #members < MAX_CHUNKS and last or first - 1
  for _, member in ipairs(members) do
    local chunk, count = tonumber(member) or 0, #positions
    local from, end_of_chunk = chunk * 256, math.min(chunk * 256 + 255, tonumber(head[3]))
    local to = math.min(end_of_chunk, last)
    local read = read_chunk(chunk, math.max(from, first), to, limit, positions, bodies)
    local is_empty = #positions == count and first <= math.max(from, cursor) and read >= end_of_chunk
    if is_empty and chunk ~= read_open() then call('ZREM', base .. 'q', member) end
    if #positions == limit or read < to then
      seen = #positions == limit and tonumber(positions[limit]) or read
      break
    end
    seen = math.max(seen, read)
  end
  if first == cursor then move_cursor(tonumber(positions[1] or nil) or seen + 1) end
  return positions, bodies, seen
end

-- The first messages from a position on in any of the states `f`, `c` and `d`, at most `limit`:
-- positions, records, which are false if missing, and where further ones may be, or nil.
local function messages_from(first, states, limit)
  local positions, bodies, fresh, last, seen = {}, {}, {}, tonumber(head[3]), nil
  for key in string.gmatch(states, '.') do
    local some = call('ZRANGE', base .. key, first, '+inf', 'BYSCORE', 'LIMIT', 0, limit)
    for _, position in ipairs(some) do positions[#positions + 1] = position end
  end
  local function sort()
    table.sort(positions, function(a, b) return (tonumber(a) or 0) < (tonumber(b) or 0) end)
    for i = #positions, limit + 1, -1 do positions[i] = nil end
  end
  if #states > 1 then sort() end
  if string.find(states, 'f', 1, true) then
    fresh, bodies, seen = fresh_messages(first, tonumber(positions[limit] or nil) or last, limit)
    while #positions > 0 and (tonumber(positions[#positions]) or 0) > seen do
      positions[#positions] = nil
    end
  end
  if #positions == 0 then
    positions = fresh
  elseif #fresh == 0 then
    bodies = records(positions)
  else
    local record_of = {}
    for i, position in ipairs(fresh) do record_of[position] = bodies[i] end
    for i, record in ipairs(records(positions)) do record_of[positions[i]] = record end
    for _, position in ipairs(fresh) do positions[#positions + 1] = position end
    sort()
    for i, position in ipairs(positions) do bodies[i] = record_of[position] end
  end
  local next
  if #positions >= limit then
    next = math.max(tonumber(positions[limit]) or 0, first) + 1
  elseif seen and seen < last then
    next = seen + 1
  end
  return positions, bodies, next
end
