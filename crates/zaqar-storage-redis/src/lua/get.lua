-- Messages by position, ascending; the groups of positions begin at ARGV[4].
local positions = own_positions(4)
local ends = read_many('ZMSCORE', 'x', positions)
local answer, live, live_ends = {'done', head[1]}, {}, {}
for i, position in ipairs(positions) do
  if tonumber(ends[i] or 0) > now then
    live[#live + 1] = position
    live_ends[#live] = ends[i]
  end
end
local notes, bodies = read_many('HMGET', 'k', live), records(live)
for i, position in ipairs(live) do
  if bodies[i] then append_message(answer, position, live_ends[i], notes[i], bodies[i]) end
end
return answer
