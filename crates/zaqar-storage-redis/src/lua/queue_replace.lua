-- Puts ARGV[3] in the place of the row ARGV[1] if that begins with ARGV[2]. ARGV[4] is set where this may have been done before: then
-- what is there is taken for what was made, if it is the same.
local rows = string.sub(KEYS[1], 1, -2) .. 'r'
local there = redis.call('HGET', rows, ARGV[1])
if not there then return 0 end
if string.sub(there, 1, #ARGV[2]) ~= ARGV[2] then
  return ARGV[4] ~= '' and there == ARGV[3] and 1 or 0
end
redis.call('HSET', rows, ARGV[1], ARGV[3])
return 1
