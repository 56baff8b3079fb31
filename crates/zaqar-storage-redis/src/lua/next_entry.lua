-- The time since which an entry is due, or at which the next one will be, or empty. The head
-- records it as the time for which the queue is scheduled.
local next = math.huge
end_unwanted(250)
if is_wanted() then next = math.min(first_score('ow'), first_score('od')) end
local status = next <= now and 'now' or 'done'
if next == math.huge then next = '' end
call('HSET', KEYS[1], 'o', next)
return {status, next}
