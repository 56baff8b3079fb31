-- Takes the first free messages that the caller can decrypt, at most ARGV[5], after the position
-- ARGV[6] if that is not empty. The caller's keys follow. Answers where the next slice begins if
-- this one passed over too many messages; or `lost` if this is a repeat, because the answer cannot
-- be given again.
if answered then return {'lost'} end
local PASSED, PASSED_BYTES = 1000, 4194304
local limit, from = tonumber(ARGV[5]), ARGV[6] == '' and 0 or tonumber(ARGV[6]) + 1
local readable = {}
for i = 7, #ARGV do readable[ARGV[i]] = true end

-- The layout of a record is documented in record.rs.
local function key_of(record)
  local client = struct.unpack('>I4', record, 10)
  return (struct.unpack('>I4c0', record, 14 + client))
end

local function is_readable(record)
  local flags = string.byte(record, 9)
  if not flags or flags % 2 == 0 then return flags ~= nil end
  local is_whole, key = pcall(key_of, record)
  return is_whole and readable[key]
end

local positions, ends, notes, bodies, gone, gone_notes = {}, {}, {}, {}, {}, {}
local passed, passed_bytes, next, is_end = 0, 0, '', false
while #positions < limit and #gone < MAX_SCANNED and next == '' and not is_end do
  local want = math.min(math.max(limit - #positions, passed > 0 and 16 or 1), 256)
  local some, some_records, later = messages_from(from, 'f', want)
  local some_notes, some_ends = read_many('HMGET', 'k', some), expiries(some, some_records)
  for i, position in ipairs(some) do
    local record = some_records[i]
    if tonumber(some_ends[i] or 0) <= now or not record then
      gone[#gone + 1] = position
      gone_notes[#gone] = some_notes[i]
    elseif #positions == limit or next ~= '' then
      break
    elseif is_readable(record) then
      local n = #positions + 1
      positions[n], ends[n], notes[n], bodies[n] = position, some_ends[i], some_notes[i], record
    else
      passed, passed_bytes = passed + 1, passed_bytes + #record
      if passed >= PASSED or passed_bytes >= PASSED_BYTES then next = position end
    end
  end
  if not later then
    is_end = true
  elseif #some == 0 then
    break
  end
  from = later
end
delete_messages(gone, gone_notes)
count_expired(#gone)
if #positions == 0 and next == '' and not is_end then return {'retry'} end
if #positions > 0 then remember('popped') end
local answer = {'done', head[1], #positions < limit and next or ''}
for i, position in ipairs(positions) do
  append_message(answer, position, ends[i], notes[i], bodies[i])
end
delete_messages(positions, notes)
if passed == 0 and ARGV[6] == '' and #positions > 0 then move_cursor(positions[#positions] + 1) end
return answer
