-- Arguments of one command: Lua's stack holds 8000.
local MANY = 4000

-- The positions among the arguments that belong to this incarnation of the queue. They come in
-- groups: incarnation, number of positions, positions.
local function own_positions(from)
  while ARGV[from] do
    local count = tonumber(ARGV[from + 1])
    if ARGV[from] == head[1] then
      local positions = {}
      for i = from + 2, from + 1 + count do positions[#positions + 1] = ARGV[i] end
      return positions
    end
    from = from + 2 + count
  end
  return {}
end

-- The digits of a whole number. `%.0f` is slow, so neighbours share their first digits.
local million, first_digits = -1, ''
local function decimal(number)
  local part = math.floor(number / 1000000)
  if part == 0 then return string.format('%d', number) end
  if part ~= million then million, first_digits = part, string.format('%.0f', part) end
  return first_digits .. string.format('%06d', number - part * 1000000)
end

-- Answers the sum of what the commands answer, which are numbers.
local function write_many(name, key, args)
  local sum = 0
  for i = 1, #args, MANY do
    sum = sum + call(name, base .. key, unpack(args, i, math.min(i + MANY - 1, #args)))
  end
  return sum
end

-- As `write_many`, for commands that answer one value per argument.
local function read_many(name, key, args)
  if #args <= MANY then
    if #args == 0 then return {} end
    return call(name, base .. key, unpack(args))
  end
  local answers = {}
  for i = 1, #args, MANY do
    local some = call(name, base .. key, unpack(args, i, math.min(i + MANY - 1, #args)))
    for _, answer in ipairs(some) do
      answers[#answers + 1] = answer
    end
  end
  return answers
end

-- The chunk of a position; nil for a member that is not a position, which this store never writes.
local function chunk_of(position)
  local number = tonumber(position)
  return number and math.floor(number / 256)
end

-- The chunk of an entry in the index of expiry that is for many messages: see cover.lua.
local function covered_chunk(member) return tonumber(string.match(member, '^b(%d+)$')) end

-- Calls `use` for each run of adjacent positions in the same chunk: the chunk's key, their fields,
-- and the index of the first.
local function chunks(positions, use)
  local i = 1
  while i <= #positions do
    local chunk, fields = chunk_of(positions[i]), {}
    local j = i
    while j <= #positions and chunk_of(positions[j]) == chunk do
      if chunk then fields[#fields + 1] = positions[j] % 256 end
      j = j + 1
    end
    if chunk then use('b:' .. chunk, fields, i) end
    i = j
  end
end

-- The records at these positions; false for a missing one.
local function records(positions)
  local found = {}
  for i = 1, #positions do found[i] = false end
  chunks(positions, function(key, fields, first)
    for i, record in ipairs(read_many('HMGET', key, fields)) do found[first + i - 1] = record end
  end)
  return found
end

-- The positions of a chunk that are stored, as keys.
local function stored_in(chunk)
  local found = {}
  for _, field in ipairs(call('HKEYS', base .. 'b:' .. chunk)) do
    if tonumber(field) then found[chunk * 256 + field] = true end
  end
  return found
end

-- Whether a record is marked as that of a fresh message: see fresh.lua.
local function is_marked(record) return (string.byte(record, 9) or 0) >= 8 end

local function created(record) return #record >= 8 and struct.unpack('>I8', record) or 0 end

-- When a message expires, by its record; nil for a record without a life. See record.rs.
local function end_by_record(record)
  if #record < 13 or string.byte(record, 9) < 4 then return nil end
  return struct.unpack('>I8', record) + struct.unpack('>I4', record, #record - 3) * 1000
end

-- When messages expire, given their records; nil or false for one that does not exist. An entry in
-- the index of expiry precedes the record: see cover.lua. Answers also which have an entry.
local function expiries(positions, found)
  local own, ends = read_many('ZMSCORE', 'x', positions), {}
  for i = 1, #positions do
    ends[i] = own[i] or found[i] and end_by_record(found[i])
  end
  return ends, own
end

-- When the first message that its entry covers expires in each chunk, read once; false for a chunk
-- without an entry. Records in such a chunk are left of a purge, unless they have own entries.
local first_ends = {}
local function first_end(chunk)
  if first_ends[chunk] == nil then
    first_ends[chunk] = tonumber(call('ZSCORE', base .. 'x', 'b' .. chunk) or nil) or false
  end
  return first_ends[chunk]
end

-- As `expiries`, for positions that a caller names and that may not be stored, without their
-- records: for a message that expires after `enough`, any time between the two. Reads only records
-- of chunks of which something expires before.
local function expiries_after(enough, positions)
  local ends = read_many('ZMSCORE', 'x', positions)
  for i, position in ipairs(positions) do
    local chunk = not ends[i] and chunk_of(position)
    local soonest = chunk and first_end(chunk)
    if soonest then
      local key, field = base .. 'b:' .. chunk, position % 256
      if soonest <= enough then
        local record = call('HGET', key, field)
        ends[i] = record and end_by_record(record)
      elseif call('HEXISTS', key, field) == 1 then
        ends[i] = soonest
      end
    end
  end
  return ends
end

-- The chunk and the life, in milliseconds, that the head's field `m` names: see cover.lua.
local open_chunk, open_life
local function read_open()
  if not open_chunk then
    local chunk, life = string.match(call('HGET', KEYS[1], 'm') or '', '^(%d+) (.+)$')
    open_chunk, open_life = tonumber(chunk) or -1, tonumber(life)
  end
  return open_chunk
end

-- Removes the entries of a chunk in the indexes if the chunk is empty. The one that is open keeps
-- them: most queues become empty again and again.
local function forget_if_empty(chunk)
  if call('EXISTS', base .. 'b:' .. chunk) == 0 and chunk ~= read_open() then
    if call('ZREM', base .. 'x', 'b' .. chunk) == 1 then call('ZREM', base .. 'q', chunk) end
  end
end

-- The cursor of fresh messages, or nil, how many there are, and the last position: see fresh.lua.
local function read_fresh()
  local last, cursor, others = unpack(call('HMGET', KEYS[1], 'p', 'q', 'h'))
  if not cursor then return nil, 0, tonumber(last) end
  return tonumber(cursor), last + 1 - cursor - others, tonumber(last)
end

-- Adds fresh messages from a position on, before which nothing was claimed since it was assigned.
-- `new_last` is the last position if it changes.
local function add_fresh(count, position, new_last)
  local cursor, before, last = read_fresh()
  cursor, last = math.min(cursor or position, position), new_last or last
  call('HSET', KEYS[1], 'q', cursor, 'h', last + 1 - cursor - before - count)
end

-- Counts fresh messages that are fresh no more.
local function remove_fresh(count)
  if count > 0 then call('HINCRBY', KEYS[1], 'h', count) end
end

-- A note records how often a message was claimed, and the claim that took it last until that claim
-- is released.
local function claims(note)
  if not note then return 0 end
  return tonumber(string.match(note, '^%d+')) or 0
end

local function claimant(note)
  if note and #note > 32 then return string.sub(note, -32) end
end

local is_live = {}
-- The live claim that holds a message.
local function holder(note)
  local id = claimant(note)
  if not id then return nil end
  if is_live[id] == nil then
    is_live[id] = tonumber(call('ZSCORE', base .. 'e', id) or 0) > now
  end
  if is_live[id] then return id end
end

-- Adds a message to an answer.
local function append_message(answer, position, expires, note, record)
  local n = #answer
  answer[n + 1] = position
  answer[n + 2] = expires
  answer[n + 3] = claims(note)
  answer[n + 4] = holder(note) or ''
  answer[n + 5] = record
end

-- Deletes messages; `notes` are their notes. If the cursor of fresh messages was moved past them,
-- `are_passed` is true.
local function delete_messages(positions, notes, are_passed)
  if #positions == 0 then return end
  local held, others, noted = {}, {}, {}
  for i, position in ipairs(positions) do
    if claimant(notes[i]) then held[#held + 1] = position else others[#others + 1] = position end
    if notes[i] then noted[#noted + 1] = position end
  end
  local indexed = write_many('ZREM', 'c', held)
  local freed = are_passed and #others or write_many('ZREM', 'f', others)
  if freed < #others then
    local delayed = write_many('ZREM', 'd', others)
    if delayed > 0 then write_many('ZREM', 'w', others) end
    indexed = indexed + delayed
  end
  write_many('ZREM', 'x', positions)
  write_many('HDEL', 'k', noted)
  local deleted = 0
  chunks(positions, function(key, fields, first)
    deleted = deleted + write_many('HDEL', key, fields)
    forget_if_empty(chunk_of(positions[first]))
  end)
  -- Those that had no entry were fresh.
  remove_fresh(deleted - indexed - freed)
end

-- Counts messages that expired, for the next sweep to report.
local function count_expired(count)
  if count > 0 then call('HINCRBY', KEYS[1], 'x', count) end
end

-- The positions in the row of a claim.
local function claimed_positions(row)
  local positions = {}
  for position in string.gmatch(string.match(row, '^%d+ %d+(.*)$') or '', '%d+') do
    positions[#positions + 1] = position
  end
  return positions
end

-- The positions and notes of the messages that a claim still holds.
local function held(id, row)
  local positions, notes = {}, {}
  local all = claimed_positions(row)
  for i, note in ipairs(read_many('HMGET', 'k', all)) do
    if claimant(note) == id then
      positions[#positions + 1] = all[i]
      notes[#notes + 1] = note
    end
  end
  return positions, notes
end

-- Ends a claim. Answers how many messages it held.
local function release(id)
  local row = call('HGET', base .. 'l', id)
  if not row then
    call('ZREM', base .. 'e', id)
    return 0
  end
  local positions, notes = held(id, row)
  local free, kept = {}, {}
  for i, position in ipairs(positions) do
    free[#free + 1] = position
    free[#free + 1] = position
    kept[#kept + 1] = position
    kept[#kept + 1] = claims(notes[i])
  end
  write_many('ZREM', 'c', positions)
  write_many('ZADD', 'f', free)
  write_many('HSET', 'k', kept)
  call('HDEL', base .. 'l', id)
  call('ZREM', base .. 'e', id)
  return #positions
end
