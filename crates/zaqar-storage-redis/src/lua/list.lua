-- A page. ARGV[5] is the position before it, ARGV[6] its length, ARGV[7] the client to hide,
-- encoded as in records, or empty, ARGV[8] the states to list, one letter each, ARGV[9] the
-- incarnation that the position ARGV[5] belongs to, or empty; ARGV[10] the bytes after which the
-- page ends as a slice. Answers where the next page begins, and whether this one is a slice.
local MAX_SCANNED, BYTES = 1000, tonumber(ARGV[10])

-- The first positions after `after`, merged over all the states.
local function behind(after, limit)
  local from = string.format('(%.0f', after)
  if #ARGV[8] == 1 then
    return call('ZRANGE', base .. ARGV[8], from, '+inf', 'BYSCORE', 'LIMIT', 0, limit)
  end
  local merged = {}
  for key in string.gmatch(ARGV[8], '.') do
    local some = call('ZRANGE', base .. key, from, '+inf', 'BYSCORE', 'LIMIT', 0, limit)
    for _, position in ipairs(some) do
      merged[#merged + 1] = position
    end
  end
  table.sort(merged, function(a, b) return (tonumber(a) or 0) < (tonumber(b) or 0) end)
  for i = #merged, limit + 1, -1 do merged[i] = nil end
  return merged
end

local after, limit, hide = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7]
if ARGV[9] ~= head[1] then after = 0 end
local answer, shown, scanned, bytes, is_end = {'done', head[1], '', ''}, 0, 0, 0, false
-- With a hidden client, look at some more than the page needs.
local least = hide == '' and 1 or 16

-- How many bodies to read at once: reading them costs most, and their size is not known before.
local function group_size()
  if scanned == 0 then return 1 end
  return math.min(math.max(math.floor((BYTES - bytes) / (bytes / scanned + 64)), 1), 256)
end

while shown < limit and scanned < limit + MAX_SCANNED and bytes < BYTES and not is_end do
  local want = math.min(math.max(limit - shown, least), 256)
  local positions = behind(after, want)
  local ends, notes = read_many('ZMSCORE', 'x', positions), read_many('HMGET', 'k', positions)
  local first, count = 1, #positions
  while first <= count and shown < limit and bytes < BYTES do
    local from, to = first, math.min(first + group_size() - 1, count)
    local bodies = records({unpack(positions, from, to)})
    for i = from, to do
      if shown == limit then break end
      local position, record = positions[i], bodies[i - from + 1]
      first, after, scanned = i + 1, tonumber(position) or after, scanned + 1
      bytes = bytes + (record and #record or 0)
      local expires = tonumber(ends[i] or record and end_by_record(record) or 0)
      local is_live = record and expires > now
      if is_live and (hide == '' or string.sub(record, 10, 9 + #hide) ~= hide) then
        append_message(answer, position, expires, notes[i], record)
        shown = shown + 1
      end
    end
  end
  is_end = count < want and first > count
end
if shown < limit and bytes >= BYTES and not is_end then answer[4] = 1 end
if scanned > 0 and not (is_end and shown == 0) then answer[3] = string.format('%.0f', after) end
return answer
