-- The ids of at most ARGV[5] live subscriptions without a lease after the id ARGV[4], or from the
-- first if that is empty; only confirmed ones if ARGV[6] is 1. Answers the last id first if it
-- stopped early because it looked at many.
local MOST, PAGE = 1000, 100
local answer, looked, limit = {'done', ''}, 0, tonumber(ARGV[5])
local after = ARGV[4] == '' and '-' or '(' .. ARGV[4]
while #answer - 2 < limit do
  local ids = call('ZRANGE', base .. 'si', after, '+', 'BYLEX', 'LIMIT', 0, PAGE)
  local expiries, leased = read_many('ZMSCORE', 'sx', ids), read_many('ZMSCORE', 'sl', ids)
  for i, id in ipairs(ids) do
    if #answer - 2 == limit then break end
    after = '(' .. id
    if tonumber(expiries[i] or 0) > now and not leased[i] then
      local row = ARGV[6] ~= '1' or small_row(id)
      if row and (row == true or row[3] == '1') then answer[#answer + 1] = id end
    end
  end
  looked = looked + #ids
  if #ids < PAGE then break end
  if looked >= MOST then
    answer[2] = string.sub(after, 2)
    break
  end
end
return answer
