-- Removes ARGV[3] and later arguments from the index of the lease. If entries are left, the next
-- sweep of the lease is at ARGV[2]; if that is empty, its time does not change.
local index = base .. 'li:' .. lease
if ARGV[3] then call('ZREM', index, unpack(ARGV, 3)) end
if call('EXISTS', index) == 0 then
  call('ZREM', base .. 'lx', lease)
  call('HDEL', base .. 'lh', lease)
elseif ARGV[2] ~= '' and call('ZREM', base .. 'lx', lease) == 1 then
  call('ZADD', base .. 'lx', ARGV[2], lease)
end
return {1}
