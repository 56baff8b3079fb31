-- Deletes the row ARGV[1] if it begins with ARGV[2]. Answers whether it did.
if answered then return 1 end
local rows = base .. 'r'
local row = call('HGET', rows, ARGV[1])
if not row or string.sub(row, 1, #ARGV[2]) ~= ARGV[2] then return 0 end
call('HDEL', rows, ARGV[1])
call('ZREM', KEYS[1], ARGV[1])
remember('made')
return 1
