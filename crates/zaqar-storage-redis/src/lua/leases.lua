-- Begins the scripts on leases. KEYS[1] is a shard's leases by end; without its last letter it is
-- what every key of the shard begins with. KEYS[2] never exists. ARGV[1] is the lease.
local now, lease = stated, ARGV[1]

local function lasting(lease) return tonumber(call('ZSCORE', base .. 'l', lease) or nil) end

-- Ends a lease: one that something hangs on waits for a sweep, any other is forgotten.
local function finish(lease)
  call('ZREM', base .. 'l', lease)
  if call('EXISTS', base .. 'li:' .. lease) == 1 then call('ZADD', base .. 'lx', now, lease) end
end
