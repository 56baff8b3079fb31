-- A write, because only a write shows that the server accepts writes.
call('SET', KEYS[1], '', 'PX', 60000)
return 1
