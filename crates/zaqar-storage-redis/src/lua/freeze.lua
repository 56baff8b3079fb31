-- Freezes a head that a queue leaves with the move ARGV[4].
local head = call('HMGET', KEYS[1], 'i', 'v', 'p', 'n', 'z')
if not head[1] then return {'absent'} end
local mark = 's' .. ARGV[4]
if head[5] and head[5] ~= mark then return {'moved', head[5]} end
call('HSET', KEYS[1], 'z', mark)
local _, is_left = settle(caller_now)
if is_left then return {'again'} end
return {'done', head[1], head[2], head[3], head[4]}
