-- Stores a part of a post that is committed later: see parts.rs. ARGV[4] is the post's id, ARGV[5]
-- the index of the part, ARGV[6] the part. Answers `none` if an earlier part is lost.
local list, index = base .. 'u:' .. ARGV[4], tonumber(ARGV[5])
local staged = call('LLEN', list)
if staged < index then return {'none'} end
if staged == index then call('RPUSH', list, ARGV[6]) end
-- A post that is not committed expires.
call('PEXPIRE', list, keep)
return {'done'}
