-- Creates the row ARGV[1], ARGV[2] of the project whose names are KEYS[1], unless there is one;
-- answers that.
if answered then return false end
local rows = base .. 'r'
local there = call('HGET', rows, ARGV[1])
if there then return there end
call('HSET', rows, ARGV[1], ARGV[2])
call('ZADD', KEYS[1], 0, ARGV[1])
remember('made')
return false
