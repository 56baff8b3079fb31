-- The row of a subscription: ttl, creation time, whether confirmed, subscriber, options, and its
-- lease or empty.
local function subscription(id)
  local row = call('HGET', base .. 's', id)
  if not row then return nil end
  -- Skip rows that this store did not write.
  local is_readable, parts = pcall(cmsgpack.unpack, row)
  return is_readable and type(parts) == 'table' and #parts == 6 and parts or nil
end

local function is_expired(id) return tonumber(call('ZSCORE', base .. 'sx', id) or 0) <= now end

local function unsubscribe(id)
  local row = subscription(id)
  if row and call('HGET', base .. 'sn', row[4]) == id then call('HDEL', base .. 'sn', row[4]) end
  call('HDEL', base .. 's', id)
  call('ZREM', base .. 'sx', id)
  call('ZREM', base .. 'sl', id)
  if row and row[6] ~= '' then call('ZREM', base .. 'sm', row[6] .. id) end
  call('ZREM', base .. 'si', id)
end

-- The live subscription of a subscriber.
local function subscribed(subscriber)
  local id = call('HGET', base .. 'sn', subscriber)
  if id and not is_expired(id) and subscription(id) then return id end
end

local function append_subscription(answer, id, row)
  answer[#answer + 1] = id
  for _, part in ipairs(row) do answer[#answer + 1] = part end
end
