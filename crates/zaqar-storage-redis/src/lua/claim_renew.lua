-- Renews a live claim. ARGV[4] is its id, ARGV[5] the ttl in seconds, ARGV[6] in milliseconds,
-- ARGV[7] with the grace.
local id = ARGV[4]
if tonumber(call('ZSCORE', base .. 'e', id) or 0) <= now then return {'none'} end
local row = call('HGET', base .. 'l', id)
if not row then return {'none'} end
local over = math.min(now + tonumber(ARGV[6]), FOREVER)
local at = unpromised(over)
if at then return {'hint', at} end

local till = math.min(now + tonumber(ARGV[7]), FOREVER)
local places = held(id, row)
local ends, longer = ask('ZMSCORE', 'x', places), {}
for i, place in ipairs(places) do
  local expires = tonumber(ends[i] or 0)
  if expires > now and expires < till then
    longer[#longer + 1] = till
    longer[#longer + 1] = place
  end
end
many('ZADD', 'x', longer)
call('HSET', base .. 'l', id, string.format('%s %.0f %s', ARGV[5], now, table.concat(places, ' ')))
call('ZADD', base .. 'e', over, id)
due = math.min(due, over)
save()
return {'done'}
