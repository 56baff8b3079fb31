-- Removes the row ARGV[1] if it begins with ARGV[2].
local rows = string.sub(KEYS[1], 1, -2) .. 'r'
local row = redis.call('HGET', rows, ARGV[1])
if not row or string.sub(row, 1, #ARGV[2]) ~= ARGV[2] then return 0 end
redis.call('HDEL', rows, ARGV[1])
redis.call('ZREM', KEYS[1], ARGV[1])
return 1
