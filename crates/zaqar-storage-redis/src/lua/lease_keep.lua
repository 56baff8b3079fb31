-- Renews or creates the lease until ARGV[2]. Answers 2 if it was created, 1 if it was renewed, 0 if
-- it has expired.
if answered then return {2} end
local expires = lease_expires(lease)
if expires and expires <= now then
  expire_lease(lease)
  return {0}
end
if not expires and call('ZSCORE', base .. 'lx', lease) then
  local attached = call('HGET', base .. 'lh', lease) or ''
  if string.sub(attached, 1, 1) ~= '?' then return {0} end
  call('ZREM', base .. 'lx', lease)
  call('HSET', base .. 'lh', lease, string.sub(attached, 2))
end
call('ZADD', base .. 'l', math.max(expires or 0, tonumber(ARGV[2])), lease)
if expires then return {1} end
remember('begun')
return {2}
