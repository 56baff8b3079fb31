-- Fast path for the usual post: no subscribers, no delays, and all messages in one chunk. All other
-- cases fall through to post.lua, which documents the arguments; both have the same effect on the
-- same keys.
local count = (#ARGV - 6) / 3
local last = tonumber(head[3])
if now * 1000 - last > MAX_LAG then last = now * 1000 - 1 end
if connected > last then last = connected - 1 end
local first = last + 1
local is_plain = not answered and ARGV[2] == head[2] and now == caller_now
  and (ARGV[5] == '' or (tonumber(head[7]) or 0) <= now)
  and first % 256 + count <= 256 and last + count < FOREVER
-- When messages expire, by their ttl.
local soonest, ends = math.huge, {}
for i = 7, #ARGV, 3 do
  local ttl = ARGV[i + 1]
  if not ends[ttl] then
    local at = now + ttl
    if at < soonest then soonest = at end
    if at > FOREVER then is_plain = false end
    ends[ttl] = at
  end
  if ARGV[i + 2] ~= '0' then is_plain = false end
end
if is_plain then
  local scheduled_at, at = scheduled, math.max(soonest, now + LEAD)
  if scheduled_at < now - OVERDUE then scheduled_at = math.huge end
  if at < scheduled_at then
    if ARGV[3] == '' then return {'schedule', at, ''} end
    scheduled_at = math.min(scheduled_at, tonumber(ARGV[3]))
  end
  local name = string.format('%.0f', first)
  local newest = name
  local chunk = base .. 'b:' .. math.floor(first / 256)
  if count == 1 then
    call('HSET', chunk, first % 256, ARGV[7])
    call('ZADD', base .. 'f', name, name)
    call('ZADD', base .. 'x', ends[ARGV[8]], name)
  else
    local records, free, expiring = {}, {}, {}
    for ttl, at in pairs(ends) do ends[ttl] = string.format('%.0f', at) end
    -- The first digits are the same for most; `%.0f` is slow.
    local million = math.floor(first / 1000000)
    local digits, rest = string.format('%.0f', million), first - million * 1000000
    for n = 0, count - 1 do
      if million > 0 and rest + n < 1000000 then
        newest = digits .. string.format('%06d', rest + n)
      else
        newest = string.format('%.0f', first + n)
      end
      local i, record = 2 * n + 1, 3 * n + 7
      records[i], records[i + 1] = first % 256 + n, ARGV[record]
      free[i], free[i + 1] = newest, newest
      expiring[i], expiring[i + 1] = ends[ARGV[record + 1]], newest
    end
    call('HSET', chunk, unpack(records))
    call('ZADD', base .. 'f', unpack(free))
    call('ZADD', base .. 'x', unpack(expiring))
  end
  call('HSET', requests, request, name)
  call('PEXPIRE', requests, keep)
  if soonest < due or scheduled_at ~= scheduled then
    if scheduled_at == math.huge then scheduled_at = '' end
    call('HSET', KEYS[1], 'p', newest, 'n', now, 'd', math.min(soonest, due), 'a', scheduled_at)
  else
    call('HSET', KEYS[1], 'p', newest, 'n', now)
  end
  return {'done', name, ''}
end
