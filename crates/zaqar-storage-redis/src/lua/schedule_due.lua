-- At most ARGV[2] members that are due by ARGV[1], from the sorted set KEYS[1] and, if all shards
-- are on one server, from each of the sets in ARGV[3] and later. Answers for each the index of its
-- set, from 0, its member and its score. A key of the wrong type is skipped.
local answer = {}
for n = 2, #ARGV do
  local key = n == 2 and KEYS[1] or ARGV[n]
  local due = redis.pcall(
    'ZRANGE', key, '-inf', ARGV[1], 'BYSCORE', 'LIMIT', 0, ARGV[2], 'WITHSCORES')
  for i = 1, due.err and 0 or #due, 2 do
    answer[#answer + 1] = n - 2
    answer[#answer + 1] = due[i]
    answer[#answer + 1] = due[i + 1]
  end
end
return answer
