-- A page. ARGV[5] is the position before it, ARGV[6] its length, ARGV[7] the client to hide,
-- encoded as in records, or empty, ARGV[8] the states to list, one letter each, ARGV[9] the
-- incarnation that the position ARGV[5] belongs to, or empty; ARGV[10] the bytes after which the
-- page ends as a slice. Answers where the next page begins, and whether this one is a slice.
local MAX_SCANNED, BYTES = 1000, tonumber(ARGV[10])

local after, limit, hide = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7]
if ARGV[9] ~= head[1] then after = 0 end
local answer, shown, scanned, bytes = {'done', head[1], '', ''}, 0, 0, 0
local is_end, is_slice = false, false
-- With a hidden client, look at some more than the page needs.
local least = hide == '' and 1 or 16

-- The size of the first fresh message of the page, or nil.
local function first_size()
  local position = cursor and math.max(after + 1, cursor)
  local size = position and call('HSTRLEN', base .. 'b:' .. chunk_of(position), position % 256)
  if size and size > 0 then return size end
end

-- How many messages to read at once: their bodies cost most, and their size is not known before.
-- One is read first, or its size, and others are as large as those before them.
local function group_size()
  local size = scanned > 0 and bytes / scanned or first_size()
  if not size then return 1 end
  local most = math.min(math.max(limit - shown, least), 256)
  return math.min(math.max(math.floor((BYTES - bytes) / (size + 64)), 1), most)
end

while shown < limit and scanned < limit + MAX_SCANNED and not is_slice and not is_end do
  local found = messages_from(after + 1, ARGV[8], group_size())
  local positions, bodies, next = found.positions, found.bodies, found.next
  is_end = not next
  for i, position in ipairs(positions) do
    if shown == limit then
      is_end, next = false, nil
      break
    end
    local record = bodies[i]
    after, scanned = tonumber(position) or after, scanned + 1
    bytes = bytes + (record and #record or 0)
    local is_live = record and tonumber(found.ends[i] or 0) > now
    if is_live and (hide == '' or string.sub(record, 10, 9 + #hide) ~= hide) then
      append_message(answer, position, tonumber(found.ends[i]), found.notes[i], record)
      shown = shown + 1
    end
  end
  if next then after = next - 1 end
  -- If there are no positions, it has passed over as many others as one call may.
  is_slice = bytes >= BYTES or #positions == 0
end
if shown < limit and is_slice and not is_end then answer[4] = 1 end
if (scanned > 0 or is_slice) and not (is_end and shown == 0) then
  answer[3] = string.format('%.0f', after)
end
return answer
