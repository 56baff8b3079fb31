-- Takes the lease, or makes it last until ARGV[3]; whether it is not over.
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
-- The first write takes away: a server that is full lets leases last.
call('ZREM', base .. 'l', lease)
call('ZADD', base .. 'l', math.max(till or 0, tonumber(ARGV[3])), lease)
return {1}
