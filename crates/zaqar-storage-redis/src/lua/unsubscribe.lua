-- Removes a subscription, by its id ARGV[5], and says which lease it hung on; all of them where it is empty.
if ARGV[5] == '' then
  call('UNLINK', base .. 's', base .. 'sx', base .. 'sl', base .. 'sn', base .. 'si')
  call('HDEL', KEYS[1], 's')
  return {'done', ''}
end
local row = subscription(ARGV[5])
unsubscribe(ARGV[5])
return {'done', row and row[6] or ''}
