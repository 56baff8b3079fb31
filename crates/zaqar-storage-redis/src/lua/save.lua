-- The time for which the queue must be scheduled first, if something comes due at `at` before the
-- scheduled time; otherwise nil.
local function needs_schedule(at)
  if scheduled < now - OVERDUE then scheduled = math.huge end
  at = math.max(at, now + LEAD)
  if at >= scheduled then return nil end
  if ARGV[3] ~= '' then
    scheduled = math.min(scheduled, tonumber(ARGV[3]))
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
  call('HSET', KEYS[1], 'n', now, 'd', finite(due), 'a', finite(scheduled), ...)
end
