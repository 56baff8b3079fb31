-- Begins the scripts on a queue that has a head: reads it and checks what the caller assumes of it.
--
-- KEYS[1] is the head; without its last letter it is what every key of the queue begins with. KEYS[2] never exists: see keys.rs.
-- ARGV[1] and ARGV[2] are the incarnation and the version assumed, or empty; ARGV[3] is the caller's time; ARGV[4] is when the
-- agenda looks at the queue, where the caller has seen to that, or empty.
local call = redis.call
local base = string.sub(KEYS[1], 1, -2)
local head = call('HMGET', KEYS[1], 'i', 'v', 'p', 'n', 'd', 'a')
if not head[1] then return {'absent'} end
if ARGV[1] ~= '' and ARGV[1] ~= head[1] then return {'stale', head[1], head[2]} end
local now = math.max(tonumber(ARGV[3]), tonumber(head[4]))
-- No message, claim or delay ends before this.
local due = tonumber(head[5]) or math.huge
-- The agenda looks at the queue no later than this.
local promised = tonumber(head[6]) or math.huge
