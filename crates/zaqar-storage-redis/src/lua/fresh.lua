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

-- Removes the chunks before the new cursor from the index.
local function set_cursor(position)
  local before, chunk = math.floor(cursor / 256), math.floor(position / 256)
  cursor = position
  if before == chunk then return end
  for _, member in ipairs(call('ZRANGE', base .. 'q', '-inf', '(' .. chunk, 'BYSCORE')) do
    call('ZREM', base .. 'q', member)
  end
end

-- Moves the cursor to a position before which no message is fresh.
local function move_cursor(position)
  if not cursor or cursor >= position then return end
  local _, count, last = read_fresh()
  -- This only saves later calls some work if nothing was claimed. So a full server may reject it.
  local set = redis.pcall('HSET', KEYS[1], 'q', position, 'h', last + 1 - position - count)
  if type(set) == 'number' then set_cursor(position) end
end

-- Moves the cursor past fresh messages that are taken, if they are the first ones and adjacent.
-- Answers whether; the field `h` does not change.
local function pass_fresh(positions)
  local first, last = tonumber(positions[1]), tonumber(positions[#positions])
  if first ~= cursor or last - first ~= #positions - 1 then return false end
  call('HSET', KEYS[1], 'q', last + 1)
  set_cursor(last + 1)
  return true
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

-- The first members of a sorted set from a score on, at most `limit`. Nothing is added while a
-- script reads, so that a set which was once read to its end is not read again.
local read_to_end = {}
local function members_from(key, first, limit)
  local all, found = read_to_end[key], {}
  if not all then
    found = call('ZRANGE', base .. key, first, '+inf', 'BYSCORE', 'LIMIT', 0, limit)
    if #found < limit then read_to_end[key] = found end
    return found
  end
  for _, member in ipairs(all) do
    if #found < limit and (tonumber(member) or 0) >= first then found[#found + 1] = member end
  end
  return found
end

-- The first fresh messages between two positions, at most `limit`: positions, records, and the
-- position up to which these are all.
local function fresh_messages(first, last, limit)
  local positions, bodies = {}, {}
  if not cursor then return positions, bodies, last end
  first = math.max(first, cursor)
  local members = members_from('q', math.floor(first / 256), MAX_CHUNKS)
  local seen = #members < MAX_CHUNKS and last or first - 1
  for _, member in ipairs(members) do
    local chunk, count = tonumber(member) or 0, #positions
    local from, end_of_chunk = chunk * 256, math.min(chunk * 256 + 255, tonumber(head[3]))
    local to = math.min(end_of_chunk, last)
    if from > last then
      seen = last
      break
    end
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
-- their positions, records, ends and notes, and `next`, where further ones may be, or nil. A record
-- and an end are false or nil if they are missing. Answers also whether all are fresh.
local function messages_from(first, states, limit)
  local others, last, fresh, bodies, seen = {}, tonumber(head[3]), {}, {}, nil
  for key in string.gmatch(states, '.') do
    for _, position in ipairs(members_from(key, first, limit)) do others[#others + 1] = position end
  end
  if #states > 1 then
    table.sort(others, function(a, b) return (tonumber(a) or 0) < (tonumber(b) or 0) end)
  end
  for i = #others, limit + 1, -1 do others[i] = nil end
  if string.find(states, 'f', 1, true) then
    fresh, bodies, seen = fresh_messages(first, tonumber(others[limit] or nil) or last, limit)
    while #others > 0 and (tonumber(others[#others]) or 0) > seen do others[#others] = nil end
  end
  -- A fresh message has no note, and expires as its record says.
  local found = {positions = fresh, bodies = bodies, ends = {}, notes = {}}
  for i, record in ipairs(bodies) do found.ends[i] = end_by_record(record) end
  if #others > 0 then
    local other = {positions = others, bodies = records(others), notes = read_many('HMGET', 'k', others)}
    other.ends = expiries(others, other.bodies)
    if #fresh == 0 then
      found = other
    else
      local merged, i, j = {positions = {}, bodies = {}, ends = {}, notes = {}}, 1, 1
      for n = 1, math.min(#others + #fresh, limit) do
        local is_other = others[i]
          and (not fresh[j] or (tonumber(others[i]) or 0) < tonumber(fresh[j]))
        local from, at = is_other and other or found, is_other and i or j
        for name, list in pairs(merged) do list[n] = from[name][at] end
        if is_other then i = i + 1 else j = j + 1 end
      end
      found = merged
    end
  end
  if #found.positions >= limit then
    found.next = math.max(tonumber(found.positions[limit]) or 0, first) + 1
  elseif seen and seen < last then
    found.next = seen + 1
  end
  return found, #others == 0
end
