-- Messages by place, ascending; their groups begin at ARGV[4].
local places = own_places(4)
local ends, answer, live, live_ends = ask('ZMSCORE', 'x', places), {'done', head[1]}, {}, {}
for i, place in ipairs(places) do
  if tonumber(ends[i] or 0) > now then
    live[#live + 1] = place
    live_ends[#live] = ends[i]
  end
end
local notes, bodies = ask('HMGET', 'k', live), records(live)
for i, place in ipairs(live) do
  if bodies[i] then show(answer, place, live_ends[i], notes[i], bodies[i]) end
end
return answer
