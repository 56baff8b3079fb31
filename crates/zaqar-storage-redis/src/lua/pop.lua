-- Takes the first free messages that the caller can decrypt with the keys ARGV[7], at most ARGV[5],
-- after the position ARGV[6] if that is not empty. Answers where the next slice begins if this one
-- skipped too many messages, the key of the first one that it skipped, and the messages; or `lost`
-- if this is a repeat, because the answer cannot be given again.
if answered then return {'lost'} end
local limit, first = tonumber(ARGV[5]), ARGV[6] == '' and 0 or tonumber(ARGV[6]) + 1
local from = first

local positions, ends, notes, bodies, gone, gone_notes = {}, {}, {}, {}, {}, {}
local is_end, are_fresh = false, true
while #positions < limit and #gone < MAX_SCANNED and skipped.next == '' and not is_end do
  local want = math.min(math.max(limit - #positions, skipped.count > 0 and 16 or 1), 256)
  local some, are_some_fresh = messages_from(from, 'f', want)
  are_fresh = are_fresh and are_some_fresh
  for i, position in ipairs(some.positions) do
    local record = some.bodies[i]
    if tonumber(some.ends[i] or 0) <= now or not record then
      gone[#gone + 1] = position
      gone_notes[#gone] = some.notes[i]
    elseif #positions == limit or skipped.next ~= '' then
      break
    elseif is_readable(record, ARGV[7]) then
      local n = #positions + 1
      positions[n], ends[n], notes[n], bodies[n] = position, some.ends[i], some.notes[i], record
    else
      skip(position, record)
    end
  end
  if not some.next then
    is_end = true
  elseif #some.positions == 0 then
    -- A call that begins at the cursor has moved it, and is repeated.
    if skipped.count > 0 or first > 0 then skipped.next = some.next - 1 end
    break
  end
  from = some.next
end
delete_messages(gone, gone_notes)
count_expired(#gone)
if #positions == 0 and skipped.next == '' and not is_end then return {'retry'} end
if #positions > 0 then remember('popped') end
local answer = {'done', head[1], skipped.next, skipped.key}
for i, position in ipairs(positions) do
  append_message(answer, position, ends[i], notes[i], bodies[i])
end
local are_passed = are_fresh and #positions > 0 and pass_fresh(positions)
delete_messages(positions, notes, are_passed)
if not are_passed and skipped.count == 0 and ARGV[6] == '' and #positions > 0 then
  move_cursor(positions[#positions] + 1)
end
return answer
