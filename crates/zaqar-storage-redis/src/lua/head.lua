-- Begins the scripts on a queue that has a head: reads it and checks what the caller assumes of it.
--
-- KEYS[1] is the head; without its last letter it is what every key of the queue begins with.
-- KEYS[2] never exists: see keys.rs. ARGV[1] and ARGV[2] are the incarnation and the version
-- assumed, or empty; ARGV[3] is when the schedule looks at the queue, where the caller has seen to
-- that, or empty.
local base = string.sub(KEYS[1], 1, -2)
local head = call('HMGET', KEYS[1], 'i', 'v', 'p', 'n', 'd', 'a', 's')
if not head[1] then return {'absent'} end
if ARGV[1] ~= '' and ARGV[1] ~= head[1] then return {'stale', head[1], head[2]} end
-- The queue's latest time holds for callers whose clocks are behind, unless it cannot be right.
local now = stated
local latest = tonumber(head[4])
if latest > now and (bound == 0 or latest <= real + bound) then now = latest end
-- No message, claim or delay ends before this.
local due = tonumber(head[5]) or math.huge
-- The schedule looks at the queue no later than this.
local promised = tonumber(head[6]) or math.huge
