-- Arguments of one command: Lua's stack holds 8000.
local MANY = 4000

-- The arguments of the script from one on.
local function rest(from)
  local args = {}
  for i = from, #ARGV do args[#args + 1] = ARGV[i] end
  return args
end

-- The places among the arguments that belong to this life of the queue: they come in groups, an
-- incarnation, their number, and they.
local function own_places(from)
  while ARGV[from] do
    local count = tonumber(ARGV[from + 1])
    if ARGV[from] == head[1] then
      local places = {}
      for i = from + 2, from + 1 + count do places[#places + 1] = ARGV[i] end
      return places
    end
    from = from + 2 + count
  end
  return {}
end

local function many(name, key, args)
  for i = 1, #args, MANY do
    call(name, base .. key, unpack(args, i, math.min(i + MANY - 1, #args)))
  end
end

-- As `many`, for commands that answer one thing for each argument.
local function ask(name, key, args)
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

-- The chunk of a place; nothing for what is no place, which only others can have put there.
local function chunk_of(place)
  local number = tonumber(place)
  return number and math.floor(number / 256)
end

-- Calls `use` for each run of neighbours that share a chunk: its key, their fields, and the index
-- of the first.
local function chunks(places, use)
  local i = 1
  while i <= #places do
    local chunk, fields = chunk_of(places[i]), {}
    local j = i
    while j <= #places and chunk_of(places[j]) == chunk do
      if chunk then fields[#fields + 1] = places[j] % 256 end
      j = j + 1
    end
    if chunk then use('b:' .. chunk, fields, i) end
    i = j
  end
end

-- The records at these places; false where there is none.
local function records(places)
  local found = {}
  for i = 1, #places do found[i] = false end
  chunks(places, function(key, fields, first)
    for i, record in ipairs(ask('HMGET', key, fields)) do found[first + i - 1] = record end
  end)
  return found
end

local function created(record) return #record >= 8 and struct.unpack('>I8', record) or 0 end

-- A note says how often a message was claimed, and which claim took it last, until that gives it
-- back.
local function claims(note)
  if not note then return 0 end
  return tonumber(string.match(note, '^%d+')) or 0
end

local function taker(note)
  if note and #note > 32 then return string.sub(note, -32) end
end

local is_live = {}
-- The live claim that holds a message.
local function holder(note)
  local id = taker(note)
  if not id then return nil end
  if is_live[id] == nil then
    is_live[id] = tonumber(call('ZSCORE', base .. 'e', id) or 0) > now
  end
  if is_live[id] then return id end
end

-- Adds a message to an answer.
local function show(answer, place, expires, note, record)
  local n = #answer
  answer[n + 1] = place
  answer[n + 2] = expires
  answer[n + 3] = claims(note)
  answer[n + 4] = holder(note) or ''
  answer[n + 5] = record
end

-- Removes messages, of which these are the notes.
local function drop(places, notes)
  if #places == 0 then return end
  local held, others, noted = {}, {}, {}
  for i, place in ipairs(places) do
    if taker(notes[i]) then held[#held + 1] = place else others[#others + 1] = place end
    if notes[i] then noted[#noted + 1] = place end
  end
  many('ZREM', 'c', held)
  local freed = 0
  for i = 1, #others, MANY do
    freed = freed + call('ZREM', base .. 'f', unpack(others, i, math.min(i + MANY - 1, #others)))
  end
  if freed < #others then
    many('ZREM', 'd', others)
    many('ZREM', 'w', others)
  end
  many('ZREM', 'x', places)
  many('HDEL', 'k', noted)
  chunks(places, function(key, fields) many('HDEL', key, fields) end)
end

-- The places that a claim took.
local function taken(row)
  local places = {}
  for place in string.gmatch(string.match(row, '^%d+ %d+(.*)$') or '', '%d+') do
    places[#places + 1] = place
  end
  return places
end

-- The places and the notes of what a claim holds.
local function held(id, row)
  local places, notes = {}, {}
  local all = taken(row)
  for i, note in ipairs(ask('HMGET', 'k', all)) do
    if taker(note) == id then
      places[#places + 1] = all[i]
      notes[#notes + 1] = note
    end
  end
  return places, notes
end

-- Ends a claim; how many messages it took.
local function release(id)
  local row = call('HGET', base .. 'l', id)
  if not row then
    call('ZREM', base .. 'e', id)
    return 0
  end
  local places, notes = held(id, row)
  local free, kept = {}, {}
  for i, place in ipairs(places) do
    free[#free + 1] = place
    free[#free + 1] = place
    kept[#kept + 1] = place
    kept[#kept + 1] = claims(notes[i])
  end
  many('ZREM', 'c', places)
  many('ZADD', 'f', free)
  many('HSET', 'k', kept)
  call('HDEL', base .. 'l', id)
  call('ZREM', base .. 'e', id)
  return #places
end
