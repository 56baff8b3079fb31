-- Names and rows behind ARGV[1], ARGV[2] of them.
local names = redis.call('ZRANGE', KEYS[1], ARGV[1], '+', 'BYLEX', 'LIMIT', 0, ARGV[2])
local answer = {}
for i = 1, #names, 4000 do
  local some = {unpack(names, i, math.min(i + 3999, #names))}
  for j, row in ipairs(redis.call('HMGET', string.sub(KEYS[1], 1, -2) .. 'r', unpack(some))) do
    answer[#answer + 1] = some[j]
    answer[#answer + 1] = row
  end
end
return answer
