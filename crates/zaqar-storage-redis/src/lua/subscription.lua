-- One live subscription, by its id ARGV[5].
if is_over(ARGV[5]) then return {'none'} end
local answer = {'done'}
tell(answer, ARGV[5], subscription(ARGV[5]))
return answer
