-- Sweeps a queue: about ARGV[1] rows. KEYS as in head.lua; the head may not exist. Answers how many
-- rows it processed, whether work is left, when the next work comes due, or empty, and how many
-- messages have expired since the last sweep.
local head = call('HMGET', KEYS[1], 'i', 'n', 'd')
local now, latest = caller_now, tonumber(head[2] or 0)
if latest > now and (max_skew == 0 or latest <= server_now + max_skew) then now = latest end
local due, budget, done = tonumber(head[3]) or math.huge, tonumber(ARGV[1]), 0
