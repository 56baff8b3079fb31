-- The generation of a head. KEYS as in head.lua.
local there = redis.call('HMGET', KEYS[1], 'i', 'v')
if not there[1] then return {'absent'} end
return {'done', there[1], there[2]}
