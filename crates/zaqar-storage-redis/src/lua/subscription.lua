-- One live subscription, by its id ARGV[4].
local row = not is_expired(ARGV[4]) and subscription(ARGV[4])
if not row then return {'none'} end
local answer = {'done'}
append_subscription(answer, ARGV[4], row)
return answer
