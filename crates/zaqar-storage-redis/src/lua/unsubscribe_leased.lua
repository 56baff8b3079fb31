-- Deletes the subscription ARGV[4] if it depends on the lease ARGV[5].
local row = small_row(ARGV[4])
if not row or row[6] ~= ARGV[5] then return {'none'} end
unsubscribe(ARGV[4])
return {'done'}
