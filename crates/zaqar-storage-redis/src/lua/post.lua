-- Stores a batch. ARGV[5] is when the agenda of deliveries looks at the queue, or empty; ARGV[6] names the request; ARGV[7] is set
-- where it may have been done before; ARGV[8] is how long entries can be followed; then come three for each message: its record, its life
-- and its delay, all times in milliseconds.
local FIRST = 9
-- How long a request is remembered, at least, and how many are.
local REMEMBER, REQUESTS = 10000, 200000

local more = call('HMGET', KEYS[1], 'k', 't', 's', 'o')
local slot, since, subscribed = more[1] or '0', tonumber(more[2]) or now, tonumber(more[3]) or 0
local entry_promised = tonumber(more[4]) or math.huge
if ARGV[7] ~= '' then
  for _, key in ipairs({'r0', 'r1'}) do
    local at = call('LPOS', base .. key, ARGV[6])
    if at then return {'done', call('LINDEX', base .. key, at + 1), ''} end
  end
end
if ARGV[2] ~= head[2] then return {'stale', head[1], head[2]} end

-- Whether workers and followers are to hear of it.
local is_heard, is_followed = false, false
if subscribed > now then
  local live = string.format('(%.0f', now)
  local all = call('ZCOUNT', base .. 'sx', live, '+inf')
  local leased = all > 0 and call('ZCOUNT', base .. 'sl', live, '+inf') or 0
  is_heard, is_followed = all > leased, leased > 0
end
-- What comes due first, of the messages and of the deliveries, and how long these can be followed.
local soonest, entry_due, followed_till = math.huge, math.huge, 0
for i = FIRST, #ARGV, 3 do
  local shown = now + tonumber(ARGV[i + 2])
  entry_due = math.min(entry_due, shown)
  followed_till = math.min(math.max(followed_till, shown + tonumber(ARGV[8])), FOREVER)
  if shown == now then shown = math.huge end
  soonest = math.min(soonest, now + tonumber(ARGV[i + 1]), shown)
end
if is_followed then soonest = math.min(soonest, followed_till) end
local at, entry_at = unpromised(soonest), nil
if is_heard then
  if entry_promised < now - OVERDUE then entry_promised = math.huge end
  entry_at = math.max(entry_due, now + LEAD)
  if entry_at >= entry_promised then
    entry_at = nil
  elseif ARGV[5] ~= '' then
    entry_promised = math.min(entry_promised, tonumber(ARGV[5]))
    entry_at = nil
  end
end
if at or entry_at then return {'hint', at or '', entry_at or ''} end

local first = last + 1
local entry = {now}
for i = FIRST, #ARGV, 3 do
  local life, delay = tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2])
  local record = append(ARGV[i], math.min(now + life, FOREVER), math.min(now + delay, FOREVER))
  if is_heard or is_followed then
    entry[#entry + 1] = record
    entry[#entry + 1] = life
    entry[#entry + 1] = delay
  end
end
flush()

local news = ''
if #entry > 1 then many('RPUSH', string.format('o:%.0f', first), entry) end
if is_followed then
  unfollow(10)
  call('ZADD', base .. 'of', first, first)
  call('ZADD', base .. 'ox', followed_till, first)
end
if is_heard then
  -- Whoever finds an earlier entry due finds this one behind it.
  local earlier = tonumber(call('ZRANGE', base .. 'ow', 0, 0, 'WITHSCORES')[2]) or math.huge
  if earlier > entry_due and call('EXISTS', base .. 'or') == 0 then news = entry_due end
  call('ZADD', base .. 'ow', entry_due, first)
end

if now - since > REMEMBER then
  slot = slot == '0' and '1' or '0'
  call('UNLINK', base .. 'r' .. slot)
  since = now
end
local remembered = call('RPUSH', base .. 'r' .. slot, ARGV[6], string.format('%.0f', first))
if remembered == 2 then
  call('PEXPIRE', base .. 'r' .. slot, 3600000)
elseif remembered >= 2 * REQUESTS then
  since = 0
end
save('p', last, 'k', slot, 't', since, 'o', finite(entry_promised))
return {'done', string.format('%.0f', first), news}
