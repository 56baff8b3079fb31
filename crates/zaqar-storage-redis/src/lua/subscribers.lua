-- The row of a subscription: ttl, creation time, whether confirmed, subscriber, options, and its
-- lease or empty. Large options are in a hash of their own, so that a post's recipients are found
-- without them: then the row has a seventh part.
local LARGE = 256

local function small_row(id)
  local row = call('HGET', base .. 's', id)
  if not row then return nil end
  -- Skip rows that this store did not write.
  local is_readable, parts = pcall(cmsgpack.unpack, row)
  return is_readable and type(parts) == 'table' and (#parts == 6 or #parts == 7) and parts or nil
end

local function subscription(id)
  local row = small_row(id)
  if not row or #row == 6 then return row end
  local options = call('HGET', base .. 'so', id)
  if not options then return nil end
  return {row[1], row[2], row[3], row[4], options, row[6]}
end

local function store_subscription(id, row)
  if #row[5] > LARGE then
    call('HSET', base .. 'so', id, row[5])
    row = {row[1], row[2], row[3], row[4], '', row[6], 1}
  else
    call('HDEL', base .. 'so', id)
  end
  call('HSET', base .. 's', id, cmsgpack.pack(row))
end

local function is_expired(id) return tonumber(call('ZSCORE', base .. 'sx', id) or 0) <= now end

local function unsubscribe(id)
  local row = small_row(id)
  if row and call('HGET', base .. 'sn', row[4]) == id then call('HDEL', base .. 'sn', row[4]) end
  call('HDEL', base .. 's', id)
  call('HDEL', base .. 'so', id)
  call('ZREM', base .. 'sx', id)
  call('ZREM', base .. 'sl', id)
  if row and row[6] ~= '' then call('ZREM', base .. 'sm', row[6] .. id) end
  call('ZREM', base .. 'si', id)
end

-- The live subscription of a subscriber.
local function subscribed(subscriber)
  local id = call('HGET', base .. 'sn', subscriber)
  if id and not is_expired(id) and small_row(id) then return id end
end

local function append_subscription(answer, id, row)
  answer[#answer + 1] = id
  for _, part in ipairs(row) do answer[#answer + 1] = part end
end
