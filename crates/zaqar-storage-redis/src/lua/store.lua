-- Collects messages to store.
local last = tonumber(head[3])
local pending = {free = {}, delayed = {}, waiting = {}, expiring = {}, fields = {}, fresh = 0}

local function flush_chunk()
  if #pending.fields == 0 then return end
  local chunk = math.floor(last / 256)
  if pending.has_fresh then call('ZADD', base .. 'q', chunk, chunk) end
  write_many('HSET', 'b:' .. chunk, pending.fields)
  pending.fields, pending.has_fresh = {}, false
end

local function pair(list, score, member)
  list[#list + 1] = score
  list[#list + 1] = member
end

-- Moves the last position to the clock if it is far behind, and to the time at which the connection
-- was made: all positions that the server may have lost are lower. Answers whether `count`
-- positions are left.
local function begin(count)
  local clock = now * 1000
  if clock - last > MAX_LAG then last = clock - 1 end
  last = math.max(last, connected - 1)
  if now < latest then open(chunk_of(last + 1), '-') end
  return last + count < FOREVER
end

-- Appends a message: its record, when it expires, and when it becomes visible.
local function append(record, expires, visible)
  if (last + 1) % 256 == 0 then flush_chunk() end
  last = last + 1
  -- The caller's clock may be behind the queue's time.
  if now > caller_now then record = struct.pack('>I8', now) .. string.sub(record, 9) end
  local name, ends = decimal(last), end_by_record(record)
  if is_marked(record) and ends ~= expires then
    record = string.sub(record, 1, 8) .. string.char(string.byte(record, 9) - 8)
      .. string.sub(record, 10)
  end
  pair(pending.fields, last % 256, record)
  if visible > now then
    pair(pending.delayed, name, name)
    pair(pending.waiting, visible, name)
  elseif is_marked(record) then
    pending.first, pending.has_fresh = pending.first or last, true
    pending.fresh = pending.fresh + 1
  else
    pair(pending.free, name, name)
  end
  if created(record) ~= now or ends ~= expires
    or not is_covered(math.floor(last / 256), now, expires) then
    pair(pending.expiring, expires, name)
  end
  due = math.min(due, expires, visible > now and visible or math.huge)
  return record
end

local function flush()
  flush_chunk()
  local cursor = tonumber(head[9] or nil)
  if cursor or pending.first then add_fresh(pending.fresh, cursor or pending.first, last) end
  write_many('ZADD', 'f', pending.free)
  write_many('ZADD', 'd', pending.delayed)
  write_many('ZADD', 'w', pending.waiting)
  write_many('ZADD', 'x', pending.expiring)
end
