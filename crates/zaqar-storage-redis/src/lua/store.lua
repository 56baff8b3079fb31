-- Messages to store, gathered.
local last = tonumber(head[3])
local fresh = {free = {}, delayed = {}, waiting = {}, expiring = {}, fields = {}}

local function flush_chunk()
  if #fresh.fields == 0 then return end
  many('HSET', 'b:' .. math.floor(last / 256), fresh.fields)
  fresh.fields = {}
end

local function pair(list, score, member)
  list[#list + 1] = score
  list[#list + 1] = member
end

-- Moves the last place to the clock where it is far behind, and to when the connection was made:
-- whatever a server has lost was stored before that. Whether `count` places are left.
local function begin(count)
  local clock = now * 1000
  if clock - last > BEHIND then last = clock - 1 end
  last = math.max(last, connected - 1)
  return last + count < FOREVER
end

-- Stores a message at the end: its record, and when it expires and is shown.
local function append(record, expires, shown)
  if (last + 1) % 256 == 0 then flush_chunk() end
  last = last + 1
  -- The caller's clock may be behind the queue's time.
  if now > stated then record = struct.pack('>I8', now) .. string.sub(record, 9) end
  pair(fresh.fields, last % 256, record)
  if shown > now then
    pair(fresh.delayed, last, last)
    pair(fresh.waiting, shown, last)
  else
    pair(fresh.free, last, last)
  end
  pair(fresh.expiring, expires, last)
  due = math.min(due, expires, shown > now and shown or math.huge)
  return record
end

local function flush()
  flush_chunk()
  many('ZADD', 'f', fresh.free)
  many('ZADD', 'd', fresh.delayed)
  many('ZADD', 'w', fresh.waiting)
  many('ZADD', 'x', fresh.expiring)
end
