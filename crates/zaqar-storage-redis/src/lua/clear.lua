local function unlink(...)
  local keys = {...}
  for i, key in ipairs(keys) do keys[i] = base .. key end
  call('UNLINK', unpack(keys))
end

-- The last position of the chunk that contains the queue's last position.
local function chunk_end() return math.floor(head[3] / 256) * 256 + 255 end

-- Deletes all indexes of messages and claims in constant time and leaves the chunks to the sweep,
-- which finds them by the renamed expiry index. The first write frees memory, so a full server
-- allows this.
local function clear()
  unlink('f', 'c', 'd', 'w', 'k', 'l', 'e', 'q')
  -- What was committed and is not settled yet: see settle.lua.
  local rest = call('HGET', KEYS[1], 'u')
  if rest then
    unlink('v:' .. (string.match(rest, '^%x+') or ''))
    call('HDEL', KEYS[1], 'u')
  end
  call('HDEL', KEYS[1], 'm', 'q', 'h')
  if call('EXISTS', base .. 'x') == 0 then return false end
  call('RENAME', base .. 'x', base .. 'x:' .. head[3])
  call('RPUSH', base .. 'g', string.format('x %s %.0f', head[3], chunk_end()))
  return true
end
