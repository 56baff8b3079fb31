-- Adds ARGV[2], which expires at ARGV[3], to the index of the lease, before the subscription is
-- created.
local index = base .. 'li:' .. lease
-- The index drops entries an hour after they expired.
local HOUR = 3600000
for _, ended in ipairs(call('ZRANGE', index, '-inf', now - HOUR, 'BYSCORE', 'LIMIT', 0, 10)) do
  call('ZREM', index, ended)
end
call('ZADD', index, ARGV[3], ARGV[2])
local expires = lease_expires(lease)
if expires and expires <= now then expire_lease(lease) end
local prefix = ''
if not expires or expires <= now then
  -- The lease is not live, even if it was forgotten: schedule it for a sweep.
  local attached = call('HGET', base .. 'lh', lease)
  local is_new = not call('ZSCORE', base .. 'lx', lease)
  local was_renewed = not is_new and string.sub(attached or '', 1, 1) ~= '?'
  if not expires and not was_renewed then prefix = '?' end
  call('ZADD', base .. 'lx', now, lease)
end
call('HSET', base .. 'lh', lease, string.format('%s%.0f', prefix, now))
return {1}
