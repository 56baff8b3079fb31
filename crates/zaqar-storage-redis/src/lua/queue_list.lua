-- At most ARGV[2] names and rows after ARGV[1], of about ARGV[3] bytes. Answers 1 first if it
-- stopped early because of their size.
local BYTES, ROW, PAGE, MANY = tonumber(ARGV[3]), 1024, 64, 16
local answer, after, left, bytes, read = {0}, ARGV[1], tonumber(ARGV[2]), 0, 0

-- How many rows to read at once: their size is not known before.
local function group_size()
  if read == 0 then return 1 end
  return math.min(math.max(math.floor((BYTES - bytes) / (bytes / read)), 1), 2 * read, MANY)
end

while left > 0 and bytes < BYTES do
  local names = redis.call('ZRANGE', KEYS[1], after, '+', 'BYLEX', 'LIMIT', 0, math.min(left, PAGE))
  if #names == 0 then return answer end
  local first = 1
  while first <= #names and bytes < BYTES do
    local some = {unpack(names, first, math.min(first + group_size() - 1, #names))}
    for i, row in ipairs(redis.call('HMGET', string.sub(KEYS[1], 1, -2) .. 'r', unpack(some))) do
      answer[#answer + 1] = some[i]
      answer[#answer + 1] = row
      bytes = bytes + (row and #row or 0) + ROW
    end
    read, left, after, first = read + #some, left - #some, '(' .. some[#some], first + #some
  end
end
if left > 0 then answer[1] = 1 end
return answer
