-- A live claim, by its id ARGV[4].
local id = ARGV[4]
if tonumber(call('ZSCORE', base .. 'e', id) or 0) <= now then return {'none'} end
local row = call('HGET', base .. 'l', id)
if not row then return {'none'} end
local positions, notes = held(id, row)
local bodies = records(positions)
local ends = expiries(positions, bodies)
local ttl, since = string.match(row, '^(%d+) (%d+)')
if not ttl then return {'none'} end
local answer = {'done', head[1], ttl, since}
for i, position in ipairs(positions) do
  if bodies[i] and tonumber(ends[i] or 0) > now then
    append_message(answer, position, ends[i], notes[i], bodies[i])
  end
end
return answer
