-- Opens a head unless there is one. KEYS as in head.lua. ARGV: incarnation, version.
local there = call('HMGET', KEYS[1], 'i', 'v')
if there[1] then return {'done', there[1], there[2]} end
-- Behind what is left of an earlier life: its chunks are named by place.
local last = 0
local garbage = call('LINDEX', base .. 'g', -1)
if garbage then last = string.match(garbage, '%d+$') or 0 end
call('HSET', KEYS[1], 'i', ARGV[1], 'v', ARGV[2], 'p', last, 'n', stated)
return {'done', ARGV[1], ARGV[2]}
