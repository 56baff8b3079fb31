-- Says that ARGV[2], which ends by itself at ARGV[3], hangs on the lease, or soon will.
local index = base .. 'li:' .. lease
-- What ended by itself long ago is not told of here.
local HOUR = 3600000
for _, ended in ipairs(call('ZRANGE', index, '-inf', now - HOUR, 'BYSCORE', 'LIMIT', 0, 10)) do
  call('ZREM', index, ended)
end
call('ZADD', index, ARGV[3], ARGV[2])
local till = lasting(lease)
if till and till <= now then finish(lease) end
local mark = ''
if not till or till <= now then
  -- A sweep has to look, also where the lease was forgotten.
  local hung = call('HGET', base .. 'lh', lease)
  local is_new = not call('ZSCORE', base .. 'lx', lease)
  if not till and (is_new or hung and string.sub(hung, 1, 1) == '?') then mark = '?' end
  call('ZADD', base .. 'lx', now, lease)
end
call('HSET', base .. 'lh', lease, string.format('%s%.0f', mark, now))
return {1}
