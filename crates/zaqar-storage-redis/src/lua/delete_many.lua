-- Deletes messages. ARGV[4] is the number of claims that may hold them, or empty for messages in
-- any state; then follow the claims, and groups of positions.
local named, from = nil, 5
if ARGV[4] ~= '' then
  named = {}
  from = 5 + tonumber(ARGV[4])
  for i = 5, from - 1 do named[ARGV[i]] = true end
end
local all, positions, notes = own_positions(from), {}, {}
local ends, all_notes = expiries_after(now, all), read_many('HMGET', 'k', all)
for i, position in ipairs(all) do
  local owner = holder(all_notes[i])
  if tonumber(ends[i] or 0) > now and (not named or (owner and named[owner])) then
    positions[#positions + 1] = position
    notes[#positions] = all_notes[i]
  end
end
delete_messages(positions, notes)
return {'done'}
