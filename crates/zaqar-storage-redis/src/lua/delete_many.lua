-- Deletes messages. ARGV[4] is how many claims are named, or empty for no matter which; they
-- follow, then groups of places.
local named, from = nil, 5
if ARGV[4] ~= '' then
  named = {}
  from = 5 + tonumber(ARGV[4])
  for i = 5, from - 1 do named[ARGV[i]] = true end
end
local all, places, notes = own_places(from), {}, {}
local ends, all_notes = ask('ZMSCORE', 'x', all), ask('HMGET', 'k', all)
for i, place in ipairs(all) do
  local owner = holder(all_notes[i])
  if tonumber(ends[i] or 0) > now and (not named or (owner and named[owner])) then
    places[#places + 1] = place
    notes[#places] = all_notes[i]
  end
end
drop(places, notes)
return {'done'}
