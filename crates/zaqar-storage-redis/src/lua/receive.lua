-- Opens a frozen head that a queue arrives in with the move ARGV[4]. Then follow incarnation,
-- version, last position and time. Answers `none` while chunks of an earlier life are left: chunks
-- are named by position, and the sweep deletes whole ones.
local head = call('HMGET', KEYS[1], 'i', 'z')
local mark = 't' .. ARGV[4]
if head[1] then
  if head[2] == mark then return {'done'} end
  if head[2] then return {'moved', head[2]} end
  return {'exists'}
end
if call('EXISTS', base .. 'g') == 1 then return {'none'} end
call('HSET', KEYS[1], 'i', ARGV[5], 'v', ARGV[6], 'p', ARGV[7], 'n', ARGV[8], 'z', mark)
return {'done'}
