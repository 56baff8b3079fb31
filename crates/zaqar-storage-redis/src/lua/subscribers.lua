-- A row: ttl, since, whether confirmed, subscriber, options, and the lease that it hangs on, or nothing.
local function subscription(id)
  local row = call('HGET', base .. 's', id)
  return row and cmsgpack.unpack(row)
end

local function is_over(id) return tonumber(call('ZSCORE', base .. 'sx', id) or 0) <= now end

local function unsubscribe(id)
  local row = subscription(id)
  if row and call('HGET', base .. 'sn', row[4]) == id then call('HDEL', base .. 'sn', row[4]) end
  call('HDEL', base .. 's', id)
  call('ZREM', base .. 'sx', id)
  call('ZREM', base .. 'sl', id)
  call('ZREM', base .. 'si', id)
end

-- The live subscription of a subscriber.
local function subscribed(subscriber)
  local id = call('HGET', base .. 'sn', subscriber)
  if id and not is_over(id) then return id end
end

local function tell(answer, id, row)
  answer[#answer + 1] = id
  for _, part in ipairs(row) do answer[#answer + 1] = part end
end
