-- Opens a head unless it exists. KEYS as in head.lua. ARGV: incarnation, version.
local existing = call('HMGET', KEYS[1], 'i', 'v', 'z')
if existing[3] then return {'moved', existing[3]} end
if existing[1] then return {'done', existing[1], existing[2]} end
-- Start after the positions of an earlier incarnation whose chunks are not deleted yet: chunks are
-- named by position.
local last = 0
local garbage = call('LINDEX', base .. 'g', -1)
if garbage then last = string.match(garbage, '%d+$') or 0 end
call('HSET', KEYS[1], 'i', ARGV[1], 'v', ARGV[2], 'p', last, 'n', caller_now)
return {'done', ARGV[1], ARGV[2]}
