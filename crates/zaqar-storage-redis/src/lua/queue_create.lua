-- Creates the row ARGV[2] under the name ARGV[1], unless there is one; answers the existing row.
-- KEYS[1] has the names of the project.
if answered then return false end
local rows = base .. 'r'
local existing = call('HGET', rows, ARGV[1])
if existing then return existing end
call('HSET', rows, ARGV[1], ARGV[2])
call('ZADD', KEYS[1], 0, ARGV[1])
remember('made')
return false
