-- One live subscription, by its id ARGV[4].
local row = not is_over(ARGV[4]) and subscription(ARGV[4])
if not row then return {'none'} end
local answer = {'done'}
tell(answer, ARGV[4], row)
return answer
