-- Removes the subscription ARGV[5] if it hangs on the lease ARGV[6].
local row = subscription(ARGV[5])
if not row or row[6] ~= ARGV[6] then return {'none'} end
unsubscribe(ARGV[5])
return {'done'}
