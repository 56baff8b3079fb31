-- Stores dead letters; ARGV[4] is the claim that holds them in their source. Then follow four
-- arguments for each: the name of its source, its record, its ttl in milliseconds or empty, and
-- when it expires without one. Those that are stored already are skipped.
local REMEMBER, MAX_NAMES = 600000, 100000

local more = call('HMGET', KEYS[1], 'lk', 'lt')
local slot, since = more[1] or '0', tonumber(more[2]) or now
local function end_of(i)
  local ttl = tonumber(ARGV[i + 2])
  return ttl and math.min(now + ttl, FOREVER) or tonumber(ARGV[i + 3])
end
local soonest = math.huge
for i = 5, #ARGV, 4 do soonest = math.min(soonest, end_of(i)) end
local at = needs_schedule(soonest)
if at then return {'schedule', at} end
if now - since > REMEMBER then
  slot = slot == '0' and '1' or '0'
  call('UNLINK', base .. 't' .. slot)
  since = now
end
if not begin(#ARGV) then return {'no positions'} end
local names = {}
for i = 5, #ARGV, 4 do
  if call('HEXISTS', base .. 't0', ARGV[i]) + call('HEXISTS', base .. 't1', ARGV[i]) == 0 then
    append(ARGV[i + 1], end_of(i), now)
    pair(names, ARGV[i], '')
  end
end
if #names > 0 then
  flush()
  write_many('HSET', 't' .. slot, names)
  call('PEXPIRE', base .. 't' .. slot, 7200000)
  if call('HLEN', base .. 't' .. slot) > MAX_NAMES then since = 0 end
end
save('p', last, 'lk', slot, 'lt', since)
return {'done'}
