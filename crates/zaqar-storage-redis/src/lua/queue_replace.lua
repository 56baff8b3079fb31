-- Puts ARGV[3] in the place of the row ARGV[1] if that begins with ARGV[2]; whether it did.
if answered then return 1 end
local rows = base .. 'r'
local there = call('HGET', rows, ARGV[1])
if not there or string.sub(there, 1, #ARGV[2]) ~= ARGV[2] then return 0 end
call('HSET', rows, ARGV[1], ARGV[3])
remember('made')
return 1
