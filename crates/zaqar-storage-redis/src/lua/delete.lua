-- Deletes messages, each independently: from ARGV[4] on, a position and the named claim, or empty,
-- for each message. Answers the outcome of each.
local positions, answer, gone, gone_notes = {}, {'done'}, {}, {}
for i = 4, #ARGV, 2 do positions[#positions + 1] = ARGV[i] end
local ends, notes = expiries_after(now, positions), read_many('HMGET', 'k', positions)
for i, position in ipairs(positions) do
  local named, status = ARGV[2 * i + 3], 'gone'
  if tonumber(ends[i] or 0) > now then
    local owner = holder(notes[i])
    if owner and named == '' then
      status = 'claimed'
    elseif named ~= '' and not owner then
      status = 'not claimed'
    elseif named ~= '' and owner ~= named then
      status = 'wrong claim'
    else
      gone[#gone + 1] = position
      gone_notes[#gone] = notes[i]
    end
  end
  answer[i + 1] = status
end
delete_messages(gone, gone_notes)
return answer
