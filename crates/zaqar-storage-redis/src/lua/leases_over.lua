-- Leases that are over and that a sweep has to look at: ARGV[2] of each shard. ARGV[3] and the rest
-- are what the keys of further shards begin with, where all are on one server.
local answer = {}
-- A key that is none of ours is passed over.
local function due(key)
  local found = redis.pcall('ZRANGE', base .. key, '-inf', now, 'BYSCORE', 'LIMIT', 0, ARGV[2])
  return found.err and {} or found
end
for n = 2, #ARGV do
  if n > 2 then base = ARGV[n] end
  for _, ended in ipairs(due('l')) do finish(ended) end
  for _, over in ipairs(due('lx')) do answer[#answer + 1] = over end
end
return answer
