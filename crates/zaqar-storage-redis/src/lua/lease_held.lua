-- When something was last hung on the lease, and ARGV[3] of what hangs on it.
local answer = {string.match(call('HGET', base .. 'lh', lease) or '0', '%d+')}
for _, member in ipairs(call('ZRANGE', base .. 'li:' .. lease, 0, tonumber(ARGV[3]) - 1)) do answer[#answer + 1] = member end
return answer
