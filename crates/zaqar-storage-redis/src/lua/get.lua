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
  local live, live_ends = {}, {}
  for i, expires in ipairs(read_many('ZMSCORE', 'x', some)) do
    if tonumber(expires or 0) > now then
      live[#live + 1] = some[i]
      live_ends[#live] = expires
    end
  end
  local notes, bodies = read_many('HMGET', 'k', live), records(live)
  for i, position in ipairs(live) do
    if bodies[i] then
      append_message(answer, position, live_ends[i], notes[i], bodies[i])
      bytes = bytes + #bodies[i]
    end
  end
end
return answer
