-- Removes what the claim ARGV[4] holds: letters that have arrived.
local row = call('HGET', base .. 'l', ARGV[4])
if row then
  drop(held(ARGV[4], row))
  call('HDEL', base .. 'l', ARGV[4])
  call('ZREM', base .. 'e', ARGV[4])
end
return {'done'}
