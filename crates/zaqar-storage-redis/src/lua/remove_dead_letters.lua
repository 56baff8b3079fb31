-- Deletes the messages that the claim ARGV[4] holds: dead letters that are stored in their target.
local row = call('HGET', base .. 'l', ARGV[4])
if row then
  delete_messages(held(ARGV[4], row))
  call('HDEL', base .. 'l', ARGV[4])
  call('ZREM', base .. 'e', ARGV[4])
end
return {'done'}
