-- Ends a claim, by its id ARGV[4]. Answers how many messages it frees.
local freed = 0
if tonumber(call('ZSCORE', base .. 'e', ARGV[4]) or 0) > now then freed = release(ARGV[4]) end
return {'done', freed}
