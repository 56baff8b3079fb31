-- Leases the oldest due entry until ARGV[5].
local PAGE = 1000
-- What has come due stands in line by age.
for _ = 1, 10 do
  local come = call('ZRANGE', base .. 'ow', '-inf', now, 'BYSCORE', 'LIMIT', 0, PAGE, 'WITHSCORES')
  local firsts, by_age, by_due = {}, {}, {}
  for i = 1, #come, 2 do
    firsts[#firsts + 1] = come[i]
    by_age[i], by_age[i + 1] = come[i], come[i]
    by_due[i], by_due[i + 1] = come[i + 1], come[i]
  end
  many('ZREM', 'ow', firsts)
  many('ZADD', 'or', by_age)
  many('ZADD', 'od', by_due)
  if #firsts < PAGE then break end
end
local first = call('ZRANGE', base .. 'or', 0, 0)[1]
if not first then return {'none'} end
call('ZREM', base .. 'or', first)
call('ZREM', base .. 'od', first)
call('ZADD', base .. 'ow', math.max(tonumber(ARGV[5]), now), first)
save()
local answer = {'done', head[1], first}
for _, part in ipairs(call('LRANGE', base .. 'o:' .. first, 0, -1)) do answer[#answer + 1] = part end
return answer
