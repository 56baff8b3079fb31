-- The usual deletions, in a straight line: each message is held by the live claim that is named.
-- Whatever else there is falls through to delete.lua, which says what the arguments are; both do
-- the same to the same keys.
local places, answer = {}, {'done'}
for i = 4, #ARGV, 2 do
  places[#places + 1] = ARGV[i]
  answer[#answer + 1] = 'gone'
end
local ends = call('ZMSCORE', base .. 'x', unpack(places))
local notes = call('HMGET', base .. 'k', unpack(places))
local chunk, fields, live, is_plain = math.floor(places[1] / 256), {}, {}, true
for i, place in ipairs(places) do
  local named, note = ARGV[2 * i + 3], notes[i]
  if named ~= '' and live[named] == nil then
    live[named] = tonumber(call('ZSCORE', base .. 'e', named) or 0) > now
  end
  if not live[named] or not note or string.sub(note, -32) ~= named
    or tonumber(ends[i] or 0) <= now or math.floor(place / 256) ~= chunk then
    is_plain = false
    break
  end
  fields[i] = place % 256
end
if is_plain then
  call('ZREM', base .. 'c', unpack(places))
  call('ZREM', base .. 'x', unpack(places))
  call('HDEL', base .. 'k', unpack(places))
  call('HDEL', base .. 'b:' .. chunk, unpack(fields))
  return answer
end
