-- When something was last hung on the lease, and ARGV[2] of what hangs on it.
local answer = {string.match(call('HGET', base .. 'lh', lease) or '', '%d+') or '0'}
for _, member in ipairs(call('ZRANGE', base .. 'li:' .. lease, 0, tonumber(ARGV[2]) - 1)) do
  answer[#answer + 1] = member
end
return answer
