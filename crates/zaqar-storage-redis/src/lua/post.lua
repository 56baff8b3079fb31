-- Stores posts. ARGV[4] and ARGV[5] as in post_begin.lua; ARGV[6] is the number of messages of each
-- post; then follow three arguments for each message: record, ttl and delay. All times are in
-- milliseconds.
local FIRST = 7
-- When the first message and the first delivery come due, and how long the entries can be followed.
local soonest, entry_due, followed_until = math.huge, math.huge, 0
for i = FIRST, #ARGV, 3 do
  local visible = now + tonumber(ARGV[i + 2])
  entry_due = math.min(entry_due, visible)
  followed_until = math.min(math.max(followed_until, visible + (tonumber(ARGV[5]) or 0)), FOREVER)
  if visible == now then visible = math.huge end
  soonest = math.min(soonest, math.min(now + tonumber(ARGV[i + 1]), FOREVER), visible)
end
if for_followers then soonest = math.min(soonest, followed_until) end
local unscheduled_answer = unscheduled(soonest, entry_due)
if unscheduled_answer then return unscheduled_answer end

if not begin((#ARGV - FIRST + 1) / 3) then return {'no positions'} end
local start, news = last + 1, ''
local earliest_due = for_workers and first_entry_due() or math.huge

-- Stores one post, whose arguments are ARGV[from] to ARGV[to].
local function store(from, to)
  local first, entry, entry_due_at, entry_ends_at, entry_followed = last + 1, {now}, math.huge, 0, 0
  for i = from, to, 3 do
    local ttl, delay = tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2])
    local ends, visible = math.min(now + ttl, FOREVER), math.min(now + delay, FOREVER)
    local record = append(ARGV[i], ends, visible)
    if for_workers or for_followers then
      pair(entry, record, ttl)
      entry[#entry + 1] = delay
      entry_due_at, entry_ends_at = math.min(entry_due_at, visible), math.max(entry_ends_at, ends)
      local followed = visible + (tonumber(ARGV[5]) or 0)
      entry_followed = math.min(math.max(entry_followed, followed), FOREVER)
    end
  end
  if #entry == 1 then return end
  write_many('RPUSH', string.format('o:%.0f', first), entry)
  if for_followers then
    call('ZADD', base .. 'of', first, first)
    call('ZADD', base .. 'ox', entry_followed, first)
  end
  if for_workers then
    if entry_due_at < earliest_due then earliest_due, news = entry_due_at, entry_due_at end
    call('ZADD', base .. 'ow', entry_due_at, first)
    call('ZADD', base .. 'oe', entry_ends_at, first)
  end
end

local from = FIRST
for size in string.gmatch(ARGV[6], '%d+') do
  store(from, from + 3 * size - 1)
  from = from + 3 * size
end
flush()
if for_followers then unfollow(10) end

local first = string.format('%.0f', start)
remember(first)
save('p', last, 'o', finite(entry_scheduled))
return {'done', first, news}
