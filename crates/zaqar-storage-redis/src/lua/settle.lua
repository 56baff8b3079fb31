-- Posts that were committed in parts. The head's field `u` describes the rest of one: its id, the
-- position of the next message, how many messages are left, when they were posted, how long entries
-- can be followed, and `w` for entries for workers. As long as it exists, `due` is 0, and a script
-- that reads messages or entries settles a part first and answers `again`, so that nobody sees
-- some of the messages only.

local function first_score(key)
  return tonumber(call('ZRANGE', base .. key, 0, 0, 'WITHSCORES')[2]) or math.huge
end

-- Stores the records of one part, and answers the rest of it in the arguments of commands. For the
-- encoding, see parts.rs.
local function store_records(part, first, created)
  local found = {free = {}, delayed = {}, waiting = {}, expiring = {}, entry = {}, fresh = 0}
  found.last_visible, found.first_visible, found.last_end = 0, math.huge, 0
  local stamp, at, position, chunk = struct.pack('>I8', created), 1, first, nil
  local fields, has_fresh
  local free, expiring, entry = found.free, found.expiring, found.entry
  local last_ttl, ends, ends_at, covers
  local function flush()
    if has_fresh then call('ZADD', base .. 'q', chunk, chunk) end
    if chunk then write_many('HSET', string.format('b:%.0f', chunk), fields) end
  end
  while at <= #part do
    local ttl, delay, record
    ttl, delay, record, at = struct.unpack('>I8I8I4c0', part, at)
    record = stamp .. record
    if math.floor(position / 256) ~= chunk then
      flush()
      chunk, fields, covers, has_fresh = math.floor(position / 256), {}, nil, false
    end
    fields[#fields + 1], fields[#fields + 2] = position % 256, record
    if ttl ~= last_ttl then
      last_ttl, ends = ttl, math.min(created + ttl, FOREVER)
      ends_at = decimal(ends)
      if ends > found.last_end then found.last_end = ends end
      covers = nil
    end
    if covers == nil then
      covers = string.byte(record, 9) >= 4 and is_covered(chunk, created, ends)
      -- Messages that were posted later may be in the chunk already.
      if covers then call('ZADD', base .. 'x', 'LT', ends, 'b' .. chunk) end
    end
    local visible, name = math.min(created + delay, FOREVER), decimal(position)
    if delay > 0 then
      local n = #found.delayed
      found.delayed[n + 1], found.delayed[n + 2] = name, name
      found.waiting[n + 1], found.waiting[n + 2] = visible, name
    elseif is_marked(record) then
      has_fresh, found.fresh = true, found.fresh + 1
    else
      free[#free + 1], free[#free + 2] = name, name
    end
    if not covers then expiring[#expiring + 1], expiring[#expiring + 2] = ends_at, name end
    local n = #entry
    entry[n + 1], entry[n + 2], entry[n + 3] = record, ttl, delay
    if visible > found.last_visible then found.last_visible = visible end
    if visible < found.first_visible then found.first_visible = visible end
    position = position + 1
  end
  flush()
  return found, position - first
end

-- Stores an outbox entry of one part.
local function store_entry(found, first, created, followed, is_for_workers)
  local name = string.format('%.0f', first)
  call('RPUSH', base .. 'o:' .. name, string.format('%.0f', created))
  write_many('RPUSH', 'o:' .. name, found.entry)
  if followed then
    call('ZADD', base .. 'of', name, name)
    call('ZADD', base .. 'ox', math.min(found.last_visible + followed, FOREVER), name)
  end
  if is_for_workers then
    call('ZADD', base .. 'ow', found.first_visible, name)
    call('ZADD', base .. 'oe', found.last_end, name)
  end
end

-- Whether a subscription with an address is live, as in entries.lua.
local function has_recipients(now)
  local live = string.format('(%.0f', now)
  local all = call('ZCOUNT', base .. 'sx', live, '+inf')
  return all > 0 and all > call('ZCOUNT', base .. 'sl', live, '+inf')
end

-- Settles one part. Answers how many messages, whether parts are left, and the new `due`.
local function settle(now)
  local rest = call('HGET', KEYS[1], 'u')
  if not rest then return 0, false, 0 end
  local id, first, left, created, followed, workers =
    string.match(rest, '^(%x+) (%d+) (%d+) (%d+) (%S+) (%S)$')
  local list, count = base .. 'v:' .. (id or ''), 0
  -- The first write is one that a full server allows.
  local part = call('LPOP', list)
  if part then
    local found
    first, created = tonumber(first), tonumber(created)
    found, count = store_records(part, first, created)
    if found.fresh > 0 then add_fresh(found.fresh, first) end
    write_many('ZADD', 'f', found.free)
    write_many('ZADD', 'd', found.delayed)
    write_many('ZADD', 'w', found.waiting)
    write_many('ZADD', 'x', found.expiring)
    local is_for_workers = workers == 'w' and has_recipients(now)
    if followed ~= '-' or is_for_workers then
      store_entry(found, first, created, tonumber(followed), is_for_workers)
    end
  end
  if call('EXISTS', list) == 1 then
    call('HSET', KEYS[1], 'd', 0, 'u', string.format(
      '%s %.0f %.0f %.0f %s %s', id, first + count, left - count, created, followed, workers))
    return count, true, 0
  end
  call('HDEL', KEYS[1], 'u')
  local due = math.min(first_score('e'), first_score('w'), first_score('x'))
  call('HSET', KEYS[1], 'd', due == math.huge and '' or due)
  return count, false, due
end
