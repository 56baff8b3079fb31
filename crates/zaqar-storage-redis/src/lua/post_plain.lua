-- Fast path for the usual post: no subscribers, no delays, and all messages in one chunk. All other
-- cases fall through to post.lua, which documents the arguments; both have the same effect on the
-- same keys.
local count = (#ARGV - 6) / 3
local last = tonumber(head[3])
if now * 1000 - last > MAX_LAG then last = now * 1000 - 1 end
if connected > last then last = connected - 1 end
local first = last + 1
local is_plain = not answered and ARGV[2] == head[2] and now == caller_now and now >= latest
  and (ARGV[5] == '' or (tonumber(head[7]) or 0) <= now)
  and first % 256 + count <= 256 and last + count < FOREVER
-- Whether all messages are fresh, or none: see fresh.lua.
local is_fresh = string.byte(ARGV[7], 9) >= 8
-- When messages expire, by their ttl.
local soonest, ends, lives = math.huge, {}, 0
for i = 7, #ARGV, 3 do
  local ttl = ARGV[i + 1]
  if not ends[ttl] then
    local at = now + ttl
    if at < soonest then soonest = at end
    if at > FOREVER then is_plain = false end
    ends[ttl], lives = at, lives + 1
  end
  if ARGV[i + 2] ~= '0' or (string.byte(ARGV[i], 9) >= 8) ~= is_fresh then is_plain = false end
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
  local number = '' .. math.floor(first / 256)
  local chunk = base .. 'b:' .. number
  -- The life of the messages that the entry of their chunk covers, and a new value of `m`: see
  -- cover.lua.
  local life, mark
  if string.byte(ARGV[7], 9) >= 4 then
    local open = call('HGET', KEYS[1], 'm') or ''
    if open == number .. ' ' .. ARGV[8] then
      life = ARGV[8]
    else
      local was_open, its_life = string.match(open, '^(%d+) (.+)$')
      if was_open == number then
        life = its_life
      elseif tonumber(was_open or -1) < tonumber(number) then
        life, mark = ARGV[8], number .. ' ' .. ARGV[8]
        call('ZADD', base .. 'x', ends[life], 'b' .. number)
        call('ZADD', base .. 'q', number, number)
        if was_open and call('EXISTS', base .. 'b:' .. was_open) == 0 then
          call('ZREM', base .. 'x', 'b' .. was_open)
          call('ZREM', base .. 'q', was_open)
        end
      end
    end
  end
  -- The index of fresh messages has chunks that are open with a life.
  if is_fresh and (not life or life == '-') then call('ZADD', base .. 'q', number, number) end
  -- Positions after the cursor that are not of fresh messages: see fresh.lua.
  local others = last - head[3] + (is_fresh and 0 or count)
  if head[9] then
    if others > 0 then call('HINCRBY', KEYS[1], 'h', others) end
  elseif is_fresh then
    call('HSET', KEYS[1], 'q', name, 'h', 0)
  end
  if count == 1 then
    call('HSET', chunk, first % 256, ARGV[7])
    if not is_fresh then call('ZADD', base .. 'f', name, name) end
    if life ~= ARGV[8] then call('ZADD', base .. 'x', ends[ARGV[8]], name) end
  else
    local is_covered = lives == 1 and life == ARGV[8]
    local records, free, expiring = {}, {}, {}
    for ttl, at in pairs(ends) do ends[ttl] = string.format('%.0f', at) end
    -- The first digits are the same for most; `%.0f` is slow.
    local million = math.floor(first / 1000000)
    local digits, rest = string.format('%.0f', million), first - million * 1000000
    for n = 0, count - 1 do
      local i, record = 2 * n + 1, 3 * n + 7
      records[i], records[i + 1] = first % 256 + n, ARGV[record]
      if not is_fresh or not is_covered then
        local position
        if million > 0 and rest + n < 1000000 then
          position = digits .. string.format('%06d', rest + n)
        else
          position = string.format('%.0f', first + n)
        end
        if not is_fresh then free[i], free[i + 1] = position, position end
        if not is_covered and ARGV[record + 1] ~= life then
          expiring[#expiring + 1] = ends[ARGV[record + 1]]
          expiring[#expiring + 1] = position
        end
      end
    end
    newest = string.format('%.0f', last + count)
    call('HSET', chunk, unpack(records))
    if not is_fresh then call('ZADD', base .. 'f', unpack(free)) end
    if #expiring > 0 then call('ZADD', base .. 'x', unpack(expiring)) end
  end
  call('HSET', requests, request, name)
  call('PEXPIRE', requests, keep)
  if soonest < due or scheduled_at ~= scheduled then
    if scheduled_at == math.huge then scheduled_at = '' end
    call('HSET', KEYS[1], 'p', newest, 'n', now, 'd', math.min(soonest, due), 'a', scheduled_at)
  else
    call('HSET', KEYS[1], 'p', newest, 'n', now)
  end
  if mark then call('HSET', KEYS[1], 'm', mark) end
  return {'done', name, ''}
end
