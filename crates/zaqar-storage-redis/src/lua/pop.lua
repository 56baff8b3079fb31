-- Takes out the first free messages that the caller can open, ARGV[5] of them, behind the place
-- ARGV[6] where that is not empty. The keys that the caller has follow. Answers where the next
-- slice begins, where this one has passed over too much, or nothing; or that the answer was given
-- before, and is lost.
if answered then return {'lost'} end
local PASSED, PASSED_BYTES = 1000, 4194304
local limit, from = tonumber(ARGV[5]), ARGV[6] == '' and '-inf' or '(' .. ARGV[6]
local readable = {}
for i = 7, #ARGV do readable[ARGV[i]] = true end

-- The layout of a record is in record.rs.
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

local places, ends, notes, bodies, gone, gone_notes = {}, {}, {}, {}, {}, {}
local passed, passed_bytes, next, is_end = 0, 0, '', false
while #places < limit and #gone < LOOK and next == '' and not is_end do
  local want = math.min(math.max(limit - #places, passed > 0 and 16 or 1), 256)
  local some = call('ZRANGE', base .. 'f', from, '+inf', 'BYSCORE', 'LIMIT', 0, want)
  local some_ends, some_notes = ask('ZMSCORE', 'x', some), ask('HMGET', 'k', some)
  local some_records = records(some)
  for i, place in ipairs(some) do
    local record = some_records[i]
    if tonumber(some_ends[i] or 0) <= now or not record then
      gone[#gone + 1] = place
      gone_notes[#gone] = some_notes[i]
    elseif #places == limit or next ~= '' then
      break
    elseif is_readable(record) then
      local n = #places + 1
      places[n], ends[n], notes[n], bodies[n] = place, some_ends[i], some_notes[i], record
    else
      passed, passed_bytes = passed + 1, passed_bytes + #record
      if passed >= PASSED or passed_bytes >= PASSED_BYTES then next = place end
    end
    if chunk_of(place) then from = '(' .. place end
  end
  if #some < want then is_end = true end
end
drop(gone, gone_notes)
if #places == 0 and next == '' and not is_end then return {'again'} end
if #places > 0 then remember('popped') end
local answer = {'done', head[1], #places < limit and next or ''}
for i, place in ipairs(places) do show(answer, place, ends[i], notes[i], bodies[i]) end
drop(places, notes)
return answer
