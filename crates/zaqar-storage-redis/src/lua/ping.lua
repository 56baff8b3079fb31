-- A write, as only that shows that the server takes writes.
call('SET', KEYS[1], '', 'PX', 60000)
return 1
