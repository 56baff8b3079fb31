-- Prefix of the scripts on a queue that has a head: reads it and checks the generation that the
-- caller assumes.
--
-- KEYS[1] is the head; without its last letter it is the prefix of all keys of the queue. KEYS[2]
-- never exists: see keys.rs. ARGV[1] and ARGV[2] are the assumed incarnation and version, or empty;
-- ARGV[3] is the time for which the caller has scheduled the queue, or empty.
local base = string.sub(KEYS[1], 1, -2)
local head = call('HMGET', KEYS[1], 'i', 'v', 'p', 'n', 'd', 'a', 's', 'z', 'q')
if not head[1] then return {'absent'} end
if ARGV[1] ~= '' and ARGV[1] ~= head[1] then return {'stale', head[1], head[2]} end
-- A caller whose clock is behind gets the queue's latest time, unless that is too far ahead to be
-- right.
local now = caller_now
local latest = tonumber(head[4])
if latest > now and (max_skew == 0 or latest <= server_now + max_skew) then now = latest end
-- No message, claim or delay ends before this.
local due = tonumber(head[5]) or math.huge
-- The queue is on the schedule no later than this.
local scheduled = tonumber(head[6]) or math.huge
