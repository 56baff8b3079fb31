-- Which messages the caller can decrypt. `keys` are the names of its keys as records have them, or
-- `*` for any key: see record.rs.
local function key_of(record)
  local client = struct.unpack('>I4', record, 10)
  return (struct.unpack('>I4c0', record, 14 + client))
end

local key_names
local function is_readable(record, keys)
  if keys == '*' then return true end
  local flags = string.byte(record, 9)
  if not flags or flags % 2 == 0 then return flags ~= nil end
  if not key_names then
    key_names = {}
    local name, at = nil, 1
    while at <= #keys do
      name, at = struct.unpack('>I4c0', keys, at)
      key_names[name] = true
    end
  end
  local is_whole, key = pcall(key_of, record)
  return is_whole and key_names[key]
end

-- Messages that one call skips because the caller cannot decrypt them, and bytes of them.
local MAX_SKIPPED, MAX_SKIPPED_BYTES = 1000, 4194304
-- Their number and bytes, the key of the first one, and the last one once these are too many.
local skipped = {count = 0, bytes = 0, key = '', next = ''}
local function skip(position, record)
  if skipped.count == 0 then
    local is_whole, key = pcall(key_of, record)
    if is_whole then skipped.key = key end
  end
  skipped.count, skipped.bytes = skipped.count + 1, skipped.bytes + #record
  if skipped.count >= MAX_SKIPPED or skipped.bytes >= MAX_SKIPPED_BYTES then
    skipped.next = position
  end
end
