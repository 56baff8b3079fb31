-- A live claim, by its id ARGV[4].
local id = ARGV[4]
if tonumber(call('ZSCORE', base .. 'e', id) or 0) <= now then return {'none'} end
local row = call('HGET', base .. 'l', id)
if not row then return {'none'} end
local places, notes = held(id, row)
local ends, bodies = ask('ZMSCORE', 'x', places), records(places)
local ttl, since = string.match(row, '^(%d+) (%d+)')
if not ttl then return {'none'} end
local answer = {'done', head[1], ttl, since}
for i, place in ipairs(places) do
  if bodies[i] and tonumber(ends[i] or 0) > now then
    show(answer, place, ends[i], notes[i], bodies[i])
  end
end
return answer
