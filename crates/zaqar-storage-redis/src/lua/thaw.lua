-- Ends the freeze of a head.
call('HDEL', KEYS[1], 'z')
return {'done'}
