-- Fast path for the usual deletions: each message is held by the live claim that is named. All
-- other cases fall through to delete.lua, which documents the arguments; both have the same effect
-- on the same keys.
local positions, answer = {}, {'done'}
for i = 4, #ARGV, 2 do
  positions[#positions + 1] = ARGV[i]
  answer[#answer + 1] = 'gone'
end
local ends = call('ZMSCORE', base .. 'x', unpack(positions))
local notes = call('HMGET', base .. 'k', unpack(positions))
local chunk, fields, live, is_plain = math.floor(positions[1] / 256), {}, {}, true
for i, position in ipairs(positions) do
  local named, note = ARGV[2 * i + 3], notes[i]
  if named ~= '' and live[named] == nil then
    live[named] = tonumber(call('ZSCORE', base .. 'e', named) or 0) > now
  end
  if not live[named] or not note or string.sub(note, -32) ~= named
    or tonumber(ends[i] or 0) <= now or math.floor(position / 256) ~= chunk then
    is_plain = false
    break
  end
  fields[i] = position % 256
end
if is_plain then
  call('ZREM', base .. 'c', unpack(positions))
  call('ZREM', base .. 'x', unpack(positions))
  call('HDEL', base .. 'k', unpack(positions))
  call('HDEL', base .. 'b:' .. chunk, unpack(fields))
  return answer
end
