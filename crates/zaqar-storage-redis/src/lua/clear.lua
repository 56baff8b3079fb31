local function first_place(key) return tonumber(call('ZRANGE', base .. key, 0, 0)[1]) end

-- The chunks that messages of the head may be in.
local function span()
  local low
  for _, key in ipairs({'f', 'c', 'd'}) do
    local place = first_place(key)
    if place and (not low or place < low) then low = place end
  end
  local high = math.floor(head[3] / 256)
  return low and math.floor(low / 256) or high + 1, high
end

local function unlink(...)
  local keys = {...}
  for i, key in ipairs(keys) do keys[i] = base .. key end
  call('UNLINK', unpack(keys))
end

-- Throws everything away but the chunks, which wait in line for the sweep. The first write takes away: a server that is full lets
-- this happen.
local function clear(low, high)
  unlink('f', 'c', 'd', 'w', 'x', 'k', 'l', 'e')
  if low <= high then
    call('RPUSH', base .. 'g', string.format('b %.0f %.0f', low, high))
  end
end
