-- Schedules the queue ARGV[1] in KEYS[1] no later than ARGV[2]. The score always changes, so that a
-- reader of the old entry cannot mistake the new one for it: see schedule.rs.
local at, existing = tonumber(ARGV[2]), tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or '')
if existing then
  local whole = math.ceil(existing)
  at = math.min(whole, at) - (whole - existing + 1 / 1024) % 1
end
redis.call('ZADD', KEYS[1], at, ARGV[1])
return 1
