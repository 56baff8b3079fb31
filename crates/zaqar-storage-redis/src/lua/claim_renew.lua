-- Renews a live claim. ARGV[4] is its id, ARGV[5] the ttl in seconds, ARGV[6] the ttl in
-- milliseconds, ARGV[7] ttl plus grace in milliseconds.
local id = ARGV[4]
if tonumber(call('ZSCORE', base .. 'e', id) or 0) <= now then return {'none'} end
local row = call('HGET', base .. 'l', id)
if not row then return {'none'} end
local claim_expires = math.min(now + tonumber(ARGV[6]), FOREVER)
local at = needs_schedule(claim_expires)
if at then return {'schedule', at} end

local extended = math.min(now + tonumber(ARGV[7]), FOREVER)
local positions = held(id, row)
local ends, longer = expiries_after(extended, positions), {}
for i, position in ipairs(positions) do
  local expires = tonumber(ends[i] or 0)
  if expires > now and expires < extended then
    longer[#longer + 1] = extended
    longer[#longer + 1] = position
  end
end
write_many('ZADD', 'x', longer)
row = string.format('%s %.0f %s', ARGV[5], now, table.concat(positions, ' '))
call('HSET', base .. 'l', id, row)
call('ZADD', base .. 'e', claim_expires, id)
due = math.min(due, claim_expires)
save()
return {'done'}
