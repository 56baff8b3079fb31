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
local passed, passed_bytes, next, is_end, are_fresh = 0, 0, '', false, true
while #positions < limit and #gone < MAX_SCANNED and next == '' and not is_end do
  local want = math.min(math.max(limit - #positions, passed > 0 and 16 or 1), 256)
  local some, are_some_fresh = messages_from(from, 'f', want)
  are_fresh = are_fresh and are_some_fresh
  for i, position in ipairs(some.positions) do
    local record = some.bodies[i]
    if tonumber(some.ends[i] or 0) <= now or not record then
      gone[#gone + 1] = position
      gone_notes[#gone] = some.notes[i]
    elseif #positions == limit or next ~= '' then
      break
    elseif is_readable(record) then
      local n = #positions + 1
      positions[n], ends[n], notes[n], bodies[n] = position, some.ends[i], some.notes[i], record
    else
      passed, passed_bytes = passed + 1, passed_bytes + #record
      if passed >= PASSED or passed_bytes >= PASSED_BYTES then next = position end
    end
  end
  if not some.next then
    is_end = true
  elseif #some.positions == 0 then
    break
  end
  from = some.next
end
delete_messages(gone, gone_notes)
count_expired(#gone)
if #positions == 0 and next == '' and not is_end then return {'retry'} end
if #positions > 0 then remember('popped') end
local answer = {'done', head[1], #positions < limit and next or ''}
for i, position in ipairs(positions) do
  append_message(answer, position, ends[i], notes[i], bodies[i])
end
local are_passed = are_fresh and #positions > 0 and pass_fresh(positions)
delete_messages(positions, notes, are_passed)
if not are_passed and passed == 0 and ARGV[6] == '' and #positions > 0 then
  move_cursor(positions[#positions] + 1)
end
return answer
