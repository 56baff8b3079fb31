-- Messages by position, ascending; the groups of positions begin at ARGV[4]. Answers the last
-- position that was examined first if it stopped early because of their size.
local BYTES, PAGE = 1048576, 8
local positions = own_positions(4)
local answer, bytes = {'done', head[1], ''}, 0
for from = 1, #positions, PAGE do
  if bytes >= BYTES then
    answer[3] = positions[from - 1]
    break
  end
  local some = {unpack(positions, from, math.min(from + PAGE - 1, #positions))}
  local notes, bodies = read_many('HMGET', 'k', some), records(some)
  local ends, has_entry = expiries(some, bodies)
  for i, position in ipairs(some) do
    local is_stored = bodies[i] and (has_entry[i] or first_end(chunk_of(position)))
    if is_stored and tonumber(ends[i] or 0) > now then
      append_message(answer, position, ends[i], notes[i], bodies[i])
      bytes = bytes + #bodies[i]
    end
  end
end
return answer
