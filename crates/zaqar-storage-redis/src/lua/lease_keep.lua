-- Renews the lease, or begins it, until ARGV[2]: 2 where it begins, 1 where it lasted, 0 where it
-- is over.
if answered then return {2} end
local till = lasting(lease)
if till and till <= now then
  finish(lease)
  return {0}
end
if not till and call('ZSCORE', base .. 'lx', lease) then
  local hung = call('HGET', base .. 'lh', lease) or ''
  if string.sub(hung, 1, 1) ~= '?' then return {0} end
  call('ZREM', base .. 'lx', lease)
  call('HSET', base .. 'lh', lease, string.sub(hung, 2))
end
call('ZADD', base .. 'l', math.max(till or 0, tonumber(ARGV[2])), lease)
if till then return {1} end
remember('begun')
return {2}
