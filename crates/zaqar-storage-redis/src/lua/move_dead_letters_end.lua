end
local arrived = arrive()
if arrived[1] ~= 'done' then return arrived end
local KEYS, ARGV = {KEYS[3], KEYS[4]}, {'', '', '', ARGV[4]}
