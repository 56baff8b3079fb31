-- Prefix of the scripts of a move, in place of head.lua: as that, but ARGV[4] is the move, and
-- ARGV[5] has the letters of the ends of it that are meant. Answers `none` for other heads.
local head = call('HMGET', KEYS[1], 'i', 'v', 'p', 'n', 'd', 'a', 's', 'z', 'q')
if not head[1] or not head[8] or string.sub(head[8], 2) ~= ARGV[4]
  or not string.find(ARGV[5], string.sub(head[8], 1, 1), 1, true) then
  return {'none'}
end
local now = caller_now
local latest = tonumber(head[4])
if latest > now and (max_skew == 0 or latest <= server_now + max_skew) then now = latest end
local due = tonumber(head[5]) or math.huge
local scheduled = tonumber(head[6]) or math.huge
