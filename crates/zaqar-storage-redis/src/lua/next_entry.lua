-- Since when an entry is due, or when one will be, or nothing; that is what the schedule promises
-- from now on.
local function first_of(key) return tonumber(call('ZRANGE', base .. key, 0, 0, 'WITHSCORES')[2]) end
local next = math.huge
end_unwanted(1000)
if is_wanted() then next = math.min(first_of('ow') or math.huge, first_of('od') or math.huge) end
local said = next <= now and 'now' or 'done'
if next == math.huge then next = '' end
call('HSET', KEYS[1], 'o', next)
return {said, next}
