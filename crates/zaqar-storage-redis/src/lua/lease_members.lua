-- The time at which something was last attached to the lease, and ARGV[2] of its members.
local answer = {string.match(call('HGET', base .. 'lh', lease) or '', '%d+') or '0'}
for _, member in ipairs(call('ZRANGE', base .. 'li:' .. lease, 0, tonumber(ARGV[2]) - 1)) do
  answer[#answer + 1] = member
end
return answer
