-- Forgets that these hang on the lease: ARGV[3] and the rest; where some still do, a sweep looks at
-- it again at ARGV[2], or, where that is empty, when it would have.
local index = base .. 'li:' .. lease
if ARGV[3] then call('ZREM', index, unpack(ARGV, 3)) end
if call('EXISTS', index) == 0 then
  call('ZREM', base .. 'lx', lease)
  call('HDEL', base .. 'lh', lease)
elseif ARGV[2] ~= '' and call('ZREM', base .. 'lx', lease) == 1 then
  call('ZADD', base .. 'lx', ARGV[2], lease)
end
return {1}
