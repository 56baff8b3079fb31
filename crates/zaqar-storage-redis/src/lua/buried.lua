-- Removes what the claim ARGV[5] holds: letters that have arrived.
local row = call('HGET', base .. 'l', ARGV[5])
if row then
  drop(held(ARGV[5], row))
  call('HDEL', base .. 'l', ARGV[5])
  call('ZREM', base .. 'e', ARGV[5])
end
return {'done'}
