-- Cleans a queue: about ARGV[1] rows. KEYS as in head.lua; the head may be gone. Answers what it
-- did, whether it left something, and when something comes due next, or nothing.
local head = call('HMGET', KEYS[1], 'i', 'n', 'd')
local now, latest = stated, tonumber(head[2] or 0)
if latest > now and (bound == 0 or latest <= real + bound) then now = latest end
local due, budget, done = tonumber(head[3]) or math.huge, tonumber(ARGV[1]), 0
