-- Stores dead letters; ARGV[4] is the claim that holds them in their source. Then come four for
-- each one: the name of its source, its record, its life in milliseconds or nothing, and when it
-- expires without one. What was stored before is passed over.
local REMEMBER, LETTERS = 600000, 100000

local more = call('HMGET', KEYS[1], 'lk', 'lt')
local slot, since = more[1] or '0', tonumber(more[2]) or now
local function end_of(i)
  local life = tonumber(ARGV[i + 2])
  return life and math.min(now + life, FOREVER) or tonumber(ARGV[i + 3])
end
local soonest = math.huge
for i = 5, #ARGV, 4 do soonest = math.min(soonest, end_of(i)) end
local at = unpromised(soonest)
if at then return {'hint', at} end
if now - since > REMEMBER then
  slot = slot == '0' and '1' or '0'
  call('UNLINK', base .. 't' .. slot)
  since = now
end
if not begin(#ARGV) then return {'spent'} end
local names = {}
for i = 5, #ARGV, 4 do
  if call('HEXISTS', base .. 't0', ARGV[i]) + call('HEXISTS', base .. 't1', ARGV[i]) == 0 then
    append(ARGV[i + 1], end_of(i), now)
    pair(names, ARGV[i], '')
  end
end
if #names > 0 then
  flush()
  many('HSET', 't' .. slot, names)
  call('PEXPIRE', base .. 't' .. slot, 7200000)
  if call('HLEN', base .. 't' .. slot) > LETTERS then since = 0 end
end
save('p', last, 'lk', slot, 'lt', since)
return {'done'}
