-- Prefix of the scripts on leases. KEYS[1] is a shard's leases by expiry; without its last letter
-- it is the prefix of all keys of the shard. KEYS[2] never exists. ARGV[1] is the lease.
local now, lease = caller_now, ARGV[1]

local function lease_expires(lease) return tonumber(call('ZSCORE', base .. 'l', lease) or nil) end

-- Ends a lease. One with members is scheduled for a sweep; any other is forgotten.
local function expire_lease(lease)
  call('ZREM', base .. 'l', lease)
  if call('EXISTS', base .. 'li:' .. lease) == 1 then call('ZADD', base .. 'lx', now, lease) end
end
