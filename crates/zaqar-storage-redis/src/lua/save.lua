-- What a hint is ahead of the present at least: time for the step that it announces. See agenda.rs.
local LEAD = 30000
-- A promise that nobody keeps is none.
local OVERDUE = 120000
-- The last time that a score keeps exactly.
local FOREVER = 9007199254740991

-- When the agenda must look at the queue at the latest, where it has not heard of something that comes due `at`.
local function unpromised(at)
  if promised < now - OVERDUE then promised = math.huge end
  at = math.max(at, now + LEAD)
  if at >= promised then return nil end
  if ARGV[4] ~= '' then
    promised = math.min(promised, tonumber(ARGV[4]))
    return nil
  end
  return at
end

local function finite(time)
  if time == math.huge then return '' end
  return time
end

-- Writes the head's times, and further fields.
local function save(...)
  call('HSET', KEYS[1], 'n', now, 'd', finite(due), 'a', finite(promised), ...)
end
