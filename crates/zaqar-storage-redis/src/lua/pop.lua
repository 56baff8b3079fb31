-- Takes out the first free messages, ARGV[6] of them.
local found = first_free(tonumber(ARGV[6]), math.huge, math.huge)
with_records(found)
if #found.places == 0 and not found.is_end then return {'again'} end
local answer = {'done', head[1]}
for i, place in ipairs(found.places) do show(answer, place, found.ends[i], found.notes[i], found.records[i]) end
drop(found.places, found.notes)
return answer
