-- When the schedule must look at the queue at the latest, where it has not heard of something that
-- comes due `at`.
local function unpromised(at)
  if promised < now - OVERDUE then promised = math.huge end
  at = math.max(at, now + LEAD)
  if at >= promised then return nil end
  if ARGV[3] ~= '' then
    promised = math.min(promised, tonumber(ARGV[3]))
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
