-- Creates the row ARGV[1], ARGV[2] of the project whose names are KEYS[1], unless there is one. ARGV[3] is set where this may have
-- been done before: then what is there is taken for what was made, if it is the same.
local rows = string.sub(KEYS[1], 1, -2) .. 'r'
if redis.call('HSETNX', rows, ARGV[1], ARGV[2]) == 0 then
  local there = redis.call('HGET', rows, ARGV[1])
  if ARGV[3] ~= '' and there == ARGV[2] then return false end
  return there
end
redis.call('ZADD', KEYS[1], 0, ARGV[1])
return false
