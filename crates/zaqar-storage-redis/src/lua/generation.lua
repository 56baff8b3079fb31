-- The generation of a head. KEYS as in head.lua.
local existing = redis.call('HMGET', KEYS[1], 'i', 'v', 'z')
if existing[3] then return {'moved', existing[3]} end
if not existing[1] then return {'absent'} end
return {'done', existing[1], existing[2]}
