-- Cleans a queue: about ARGV[2] rows as of ARGV[1]. KEYS as in head.lua; the head may be gone. Answers what it did, whether it left
-- something, and when something comes due next, or nothing.
local call = redis.call
local base = string.sub(KEYS[1], 1, -2)
local head = call('HMGET', KEYS[1], 'i', 'n', 'd')
local now = math.max(tonumber(ARGV[1]), tonumber(head[2] or 0))
local due, budget, done = tonumber(head[3]) or math.huge, tonumber(ARGV[2]), 0
