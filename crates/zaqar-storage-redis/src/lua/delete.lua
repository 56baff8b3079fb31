-- Deletes messages, each as if it were alone: from ARGV[4] on a place and the claim named, or
-- empty, of each one; says what became of each.
local gone, gone_notes = {}, {}
for i, place in ipairs(places) do
  local named, said = ARGV[2 * i + 3], 'gone'
  if tonumber(ends[i] or 0) > now then
    local owner = holder(notes[i])
    if owner and named == '' then
      said = 'claimed'
    elseif named ~= '' and not owner then
      said = 'not claimed'
    elseif named ~= '' and owner ~= named then
      said = 'wrong claim'
    else
      gone[#gone + 1] = place
      gone_notes[#gone] = notes[i]
    end
  end
  answer[i + 1] = said
end
drop(gone, gone_notes)
return answer
