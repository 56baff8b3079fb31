-- Stores posts. ARGV[4] is when the schedule of deliveries looks at the queue, or empty; ARGV[5] is
-- how long entries can be followed, or empty where nobody is told; ARGV[6] is how many messages
-- each post has; then come three for each message: its record, its life and its delay, all times in
-- milliseconds.
local FIRST = 7
if answered then return {'done', answered, ''} end
if ARGV[2] ~= head[2] then return {'stale', head[1], head[2]} end
local subscribed = tonumber(head[7]) or 0
local entry_promised = tonumber(call('HGET', KEYS[1], 'o') or nil) or math.huge

-- Whether workers and followers are to hear of it.
local is_heard, is_followed = false, false
if subscribed > now and ARGV[5] ~= '' then
  is_heard = is_wanted()
  is_followed = call('ZCOUNT', base .. 'sl', string.format('(%.0f', now), '+inf') > 0
end
-- What comes due first, of the messages and of the deliveries, and how long these can be followed.
local soonest, entry_due, entry_ends, followed_till = math.huge, math.huge, 0, 0
for i = FIRST, #ARGV, 3 do
  local shown = now + tonumber(ARGV[i + 2])
  entry_due = math.min(entry_due, shown)
  followed_till = math.min(math.max(followed_till, shown + (tonumber(ARGV[5]) or 0)), FOREVER)
  if shown == now then shown = math.huge end
  local ends = math.min(now + tonumber(ARGV[i + 1]), FOREVER)
  entry_ends = math.max(entry_ends, ends)
  soonest = math.min(soonest, ends, shown)
end
if is_followed then soonest = math.min(soonest, followed_till) end
local at, entry_at = unpromised(soonest), nil
if is_heard then
  if entry_promised < now - OVERDUE then entry_promised = math.huge end
  entry_at = math.max(entry_due, now + LEAD)
  if entry_at >= entry_promised then
    entry_at = nil
  elseif ARGV[4] ~= '' then
    entry_promised = math.min(entry_promised, tonumber(ARGV[4]))
    entry_at = nil
  end
end
if at or entry_at then return {'hint', at or '', entry_at or ''} end

if not begin((#ARGV - FIRST + 1) / 3) then return {'spent'} end
local start, news, earlier = last + 1, '', math.huge
if is_heard then
  -- Whoever finds an earlier entry due finds these behind it.
  earlier = tonumber(call('ZRANGE', base .. 'ow', 0, 0, 'WITHSCORES')[2]) or math.huge
  if call('EXISTS', base .. 'or') == 1 then earlier = 0 end
end

-- Stores the post of which these are the arguments.
local function store(from, to)
  local first, entry, due_at, ends_at, till = last + 1, {now}, math.huge, 0, 0
  for i = from, to, 3 do
    local life, delay = tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2])
    local ends, shown = math.min(now + life, FOREVER), math.min(now + delay, FOREVER)
    local record = append(ARGV[i], ends, shown)
    if is_heard or is_followed then
      pair(entry, record, life)
      entry[#entry + 1] = delay
      due_at, ends_at = math.min(due_at, shown), math.max(ends_at, ends)
      till = math.min(math.max(till, shown + (tonumber(ARGV[5]) or 0)), FOREVER)
    end
  end
  if #entry == 1 then return end
  many('RPUSH', string.format('o:%.0f', first), entry)
  if is_followed then
    call('ZADD', base .. 'of', first, first)
    call('ZADD', base .. 'ox', till, first)
  end
  if is_heard then
    if due_at < earlier then earlier, news = due_at, due_at end
    call('ZADD', base .. 'ow', due_at, first)
    call('ZADD', base .. 'oe', ends_at, first)
  end
end

local from = FIRST
for size in string.gmatch(ARGV[6], '%d+') do
  store(from, from + 3 * size - 1)
  from = from + 3 * size
end
flush()
if is_followed then unfollow(10) end

local first = string.format('%.0f', start)
remember(first)
save('p', last, 'o', finite(entry_promised))
return {'done', first, news}
