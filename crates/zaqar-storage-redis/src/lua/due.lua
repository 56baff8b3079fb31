local function expired_members(key, limit)
  return call('ZRANGE', base .. key, '-inf', now, 'BYSCORE', 'LIMIT', 0, limit)
end

-- Of positions that expire in their order, how many have expired, and when the next one does.
local function find_live(positions)
  local function ends(i)
    local record = records({positions[i]})[1]
    return record and end_by_record(record) or 0
  end
  local expired, live, next_end = 0, #positions, 0
  if live > 0 then next_end = ends(live) end
  if next_end <= now then return live, nil end
  while live - expired > 1 do
    local middle = math.floor((expired + live) / 2)
    local middle_end = ends(middle)
    if middle_end > now then live, next_end = middle, middle_end else expired = middle end
  end
  return expired, next_end
end

-- Deletes the messages of a chunk that the chunk's entry covers and that have expired, at most
-- `budget` of them, and sets the entry to the next one that expires. Answers how many. It reads few
-- records, because these messages expire in the order of their positions: see cover.lua.
local function expire_chunk(chunk, budget)
  local positions, covered, is_stored = {}, {}, stored_in(chunk)
  for position = chunk * 256, chunk * 256 + 255 do
    if is_stored[position] then positions[#positions + 1] = decimal(position) end
  end
  for i, ends in ipairs(read_many('ZMSCORE', 'x', positions)) do
    if not ends then covered[#covered + 1] = positions[i] end
  end
  local expired, next_end = find_live(covered)
  for i = #covered, math.min(expired, budget) + 1, -1 do covered[i] = nil end
  delete_messages(covered, read_many('HMGET', 'k', covered))
  if #covered == expired and next_end then
    call('ZADD', base .. 'x', next_end, 'b' .. chunk)
  elseif #covered == expired then
    if chunk == read_open() then
      call('HDEL', KEYS[1], 'm')
      open_chunk, open_life = -1, nil
    end
    forget_if_empty(chunk)
    call('ZREM', base .. 'x', 'b' .. chunk)
  end
  return #covered
end

-- Ends due claims and delays and deletes expired messages, about `budget` of them. Answers how
-- many, and whether claims or delays are still due.
local function end_due(budget)
  -- A full server lets a script continue once it has executed any write.
  call('DEL', base .. '!')
  local done = 0
  while done < budget do
    local id = expired_members('e', 1)[1]
    if not id then break end
    done = done + 1 + release(id)
  end
  if done < budget then
    local positions, free = expired_members('w', budget - done), {}
    for _, position in ipairs(positions) do
      -- Skip members that are not positions.
      if chunk_of(position) then
        free[#free + 1] = position
        free[#free + 1] = position
      end
    end
    write_many('ZREM', 'd', positions)
    write_many('ZREM', 'w', positions)
    write_many('ZADD', 'f', free)
    done = done + #positions
  end
  if done < budget then
    local positions, covered = {}, {}
    for _, member in ipairs(expired_members('x', budget - done)) do
      local chunk = covered_chunk(member)
      if chunk then covered[#covered + 1] = chunk else positions[#positions + 1] = member end
    end
    delete_messages(positions, read_many('HMGET', 'k', positions))
    done = done + #positions
    local expired = #positions
    for _, chunk in ipairs(covered) do
      if done >= budget then break end
      local count = expire_chunk(chunk, budget - done)
      expired, done = expired + count, done + count + 1
    end
    count_expired(expired)
  end
  local released = math.min(first_score('e'), first_score('w'))
  due = math.min(released, first_score('x'))
  return done, released <= now
end
