-- Removes a subscription, by its id ARGV[5]; all of them where it is empty.
if ARGV[5] ~= '' then
  unsubscribe(ARGV[5])
else
  call('UNLINK', base .. 's', base .. 'sx', base .. 'sn', base .. 'si')
  call('HDEL', KEYS[1], 's')
end
return {'done'}
