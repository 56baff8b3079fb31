-- Sees to it that the schedule KEYS[1] looks at ARGV[1] at ARGV[2] or before. The score always
-- changes, so that whoever has looked at the old one cannot take this for what was there: see
-- schedule.rs.
local at, there = tonumber(ARGV[2]), tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or '')
if there then
  local whole = math.ceil(there)
  at = math.min(whole, at) - (whole - there + 1 / 1024) % 1
end
redis.call('ZADD', KEYS[1], at, ARGV[1])
return 1
