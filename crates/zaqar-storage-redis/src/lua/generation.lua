-- The generation of a head. KEYS as in head.lua.
local existing = redis.call('HMGET', KEYS[1], 'i', 'v')
if not existing[1] then return {'absent'} end
return {'done', existing[1], existing[2]}
