-- What is due by ARGV[1] on the sorted set KEYS[1], and, where all are on one server, on those that
-- ARGV[3] and the rest name; ARGV[2] of each: the number of its set, from 0, member and score. A
-- key that is none of ours is passed over.
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
