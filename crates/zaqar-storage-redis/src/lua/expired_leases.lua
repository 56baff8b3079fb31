-- Expired leases that a sweep must process: ARGV[2] per shard. ARGV[3] and later arguments are the
-- key prefixes of further shards, if all shards are on one server.
local answer = {}
-- A key of the wrong type is skipped.
local function due(key)
  local found = redis.pcall('ZRANGE', base .. key, '-inf', now, 'BYSCORE', 'LIMIT', 0, ARGV[2])
  return found.err and {} or found
end
for n = 2, #ARGV do
  if n > 2 then base = ARGV[n] end
  for _, ended in ipairs(due('l')) do expire_lease(ended) end
  for _, expired in ipairs(due('lx')) do answer[#answer + 1] = expired end
end
return answer
