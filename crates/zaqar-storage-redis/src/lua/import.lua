-- Stores a part of what a move brings. ARGV[6] and the following are rows: a letter for the kind,
-- and its fields. What is stored already is passed over.
local at = 6
local function take()
  at = at + 1
  return ARGV[at - 1]
end

local held_by, subscribed_until = {}, tonumber(head[7]) or 0
local take_one = {}
-- The chunk whose entry covers messages of this call, and when the last one of them expires.
local filled, filled_end

-- A claim: id, ttl in seconds, since when, expiry. Its messages add themselves to its row.
function take_one.c()
  local id, ttl, since, expires = take(), take(), take(), tonumber(take())
  if call('HEXISTS', base .. 'l', id) == 0 then
    call('HSET', base .. 'l', id, ttl .. ' ' .. since .. ' ')
  end
  call('ZADD', base .. 'e', expires, id)
  due = math.min(due, expires)
end

-- A message: position, record, expiry, until when it is delayed or empty, claim or empty, count.
function take_one.m()
  local position, record, expires, visible = take(), take(), tonumber(take()), tonumber(take())
  local claim, count = take(), take()
  local number = chunk_of(position)
  local chunk = base .. 'b:' .. number
  if call('HEXISTS', chunk, position % 256) == 1 then return end
  call('HSET', chunk, position % 256, record)
  local is_in_order = number > read_open() or number == filled and expires >= filled_end
  if is_in_order and created(record) <= now and end_by_record(record) == expires
    and is_covered(number, created(record), expires) then
    filled, filled_end = number, expires
  else
    call('ZADD', base .. 'x', expires, position)
  end
  due = math.min(due, expires)
  if claim ~= '' then
    call('ZADD', base .. 'c', position, position)
    call('HSET', base .. 'k', position, count .. ' ' .. claim)
    local held = held_by[claim] or {}
    held[#held + 1] = position
    held_by[claim] = held
    return
  end
  if count ~= '0' then call('HSET', base .. 'k', position, count) end
  if is_marked(record) then
    call('ZADD', base .. 'q', number, number)
    add_fresh(1, tonumber(position))
  elseif visible and visible > now then
    call('ZADD', base .. 'd', position, position)
    call('ZADD', base .. 'w', visible, position)
    due = math.min(due, visible)
  else
    call('ZADD', base .. 'f', position, position)
  end
end

-- A subscription: id, ttl in seconds, since when, whether confirmed, subscriber, options, lease or
-- empty, expiry.
function take_one.s()
  local id, row = take(), {take(), take(), take(), take(), take(), take()}
  local expires = tonumber(take())
  call('HSET', base .. 's', id, cmsgpack.pack(row))
  call('HSET', base .. 'sn', row[4], id)
  call('ZADD', base .. 'sx', expires, id)
  call('ZADD', base .. 'si', 0, id)
  if row[6] ~= '' then
    call('ZADD', base .. 'sl', expires, id)
    call('ZADD', base .. 'sm', 0, row[6] .. id)
  end
  subscribed_until = math.max(subscribed_until, expires)
end

-- An entry: first position, due time or empty, until when it is followed or empty, expiry, number
-- of its fields, and these.
function take_one.e()
  local first, due_at, followed, expires, parts = take(), take(), take(), take(), {}
  for i = 1, tonumber(take()) do parts[i] = take() end
  if call('EXISTS', base .. 'o:' .. first) == 1 then return end
  write_many('RPUSH', 'o:' .. first, parts)
  if followed ~= '' then
    call('ZADD', base .. 'of', first, first)
    call('ZADD', base .. 'ox', followed, first)
  end
  if due_at ~= '' then
    call('ZADD', base .. 'ow', due_at, first)
    call('ZADD', base .. 'oe', expires, first)
    -- It is leased if it is due later than its first message.
    local soonest = math.huge
    for i = 4, #parts, 3 do soonest = math.min(soonest, parts[1] + parts[i]) end
    if tonumber(due_at) > soonest then call('ZADD', base .. 'ol', first, first) end
  end
end

while ARGV[at] do take_one[take()]() end
for claim, positions in pairs(held_by) do
  local row = call('HGET', base .. 'l', claim)
  if row then call('HSET', base .. 'l', claim, row .. table.concat(positions, ' ') .. ' ') end
end
call('HSET', KEYS[1], 'd', due == math.huge and '' or due, 's', subscribed_until)
return {'done'}
