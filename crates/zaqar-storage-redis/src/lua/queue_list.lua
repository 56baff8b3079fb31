-- At most ARGV[2] names and rows after ARGV[1]. Answers 1 first if it stopped early because of
-- their size or number.
local BYTES, ROW, PAGE = 1048576, 1024, 64
local answer, after, left, bytes = {0}, ARGV[1], tonumber(ARGV[2]), 0
while left > 0 do
  local names = redis.call('ZRANGE', KEYS[1], after, '+', 'BYLEX', 'LIMIT', 0, math.min(left, PAGE))
  if #names == 0 then break end
  for i, row in ipairs(redis.call('HMGET', string.sub(KEYS[1], 1, -2) .. 'r', unpack(names))) do
    answer[#answer + 1] = names[i]
    answer[#answer + 1] = row
    bytes = bytes + (row and #row or 0) + ROW
  end
  left, after = left - #names, '(' .. names[#names]
  if bytes >= BYTES and left > 0 then
    answer[1] = 1
    break
  end
end
return answer
