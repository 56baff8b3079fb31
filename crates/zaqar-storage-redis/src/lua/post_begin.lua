-- What posts have in common, in one script or in parts: the schedules that have to know of them.
-- ARGV[4] is the time for which the queue is on the schedule of deliveries, or empty; ARGV[5] is
-- how long entries can be followed, or empty for posts without notification.
if answered then return {'done', answered, ''} end
if ARGV[2] ~= head[2] then return {'stale', head[1], head[2]} end
local entry_scheduled = tonumber(call('HGET', KEYS[1], 'o') or nil) or math.huge

-- Whether the outbox entry is for workers and for followers.
local for_workers, for_followers = false, false
if (tonumber(head[7]) or 0) > now and ARGV[5] ~= '' then
  for_workers = is_wanted()
  for_followers = call('ZCOUNT', base .. 'sl', string.format('(%.0f', now), '+inf') > 0
end

-- The answer to a caller that must schedule the queue first: for something that comes due at
-- `soonest`, and for an entry that comes due at `entry_due`.
local function unscheduled(soonest, entry_due)
  local at, entry_at = needs_schedule(soonest), nil
  if for_workers then
    if entry_scheduled < now - OVERDUE then entry_scheduled = math.huge end
    entry_at = math.max(entry_due, now + LEAD)
    if entry_at >= entry_scheduled then
      entry_at = nil
    elseif ARGV[4] ~= '' then
      entry_scheduled = math.min(entry_scheduled, tonumber(ARGV[4]))
      entry_at = nil
    end
  end
  if at or entry_at then return {'schedule', at or '', entry_at or ''} end
end

-- When the first entry for workers comes due. A worker that finds an earlier entry due also finds
-- new ones after it.
local function first_entry_due()
  if call('EXISTS', base .. 'or') == 1 then return 0 end
  return tonumber(call('ZRANGE', base .. 'ow', 0, 0, 'WITHSCORES')[2]) or math.huge
end
