-- Fast path for the usual deletions: each message is held by the live claim that is named. All
-- other cases fall through to delete.lua, which documents the arguments; both have the same effect
-- on the same keys.
local positions, answer = {}, {'done'}
for i = 4, #ARGV, 2 do
  positions[#positions + 1] = ARGV[i]
  answer[#answer + 1] = 'gone'
end
local notes = call('HMGET', base .. 'k', unpack(positions))
local count, chunk = #positions, math.floor(positions[1] / 256)
local chunk_name = '' .. chunk
-- The last one is the entry of the chunk: a message without an own entry does not expire before it,
-- see cover.lua.
positions[count + 1] = 'b' .. chunk_name
local ends = call('ZMSCORE', base .. 'x', unpack(positions))
positions[count + 1] = nil
local fields, live, is_plain, has_entries = {}, {}, true, false
for i, position in ipairs(positions) do
  local named, note = ARGV[2 * i + 3], notes[i]
  if named ~= '' and live[named] == nil then
    live[named] = tonumber(call('ZSCORE', base .. 'e', named) or 0) > now
  end
  if not live[named] or not note or string.sub(note, -32) ~= named
    or tonumber(ends[i] or ends[count + 1] or 0) <= now or math.floor(position / 256) ~= chunk then
    is_plain = false
    break
  end
  if ends[i] then has_entries = true end
  fields[i] = position % 256
end
if is_plain then
  call('ZREM', base .. 'c', unpack(positions))
  if has_entries then call('ZREM', base .. 'x', unpack(positions)) end
  call('HDEL', base .. 'k', unpack(positions))
  call('HDEL', base .. 'b:' .. chunk_name, unpack(fields))
  -- As `forget_if_empty` in messages.lua.
  if ends[count + 1] and call('EXISTS', base .. 'b:' .. chunk_name) == 0
    and string.match(call('HGET', KEYS[1], 'm') or '', '^%d+') ~= chunk_name then
    call('ZREM', base .. 'x', 'b' .. chunk_name)
    call('ZREM', base .. 'q', chunk_name)
  end
  return answer
end
