-- Replaces the row ARGV[1] by ARGV[3] if it begins with ARGV[2]. Answers whether it did.
if answered then return 1 end
local rows = base .. 'r'
local existing = call('HGET', rows, ARGV[1])
if not existing or string.sub(existing, 1, #ARGV[2]) ~= ARGV[2] then return 0 end
call('HSET', rows, ARGV[1], ARGV[3])
remember('made')
return 1
