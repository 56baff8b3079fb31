-- At most ARGV[5] live subscriptions after the id ARGV[4], or from the first if that is empty.
-- Answers 1 first if it stopped early because of their size.
local BYTES, PAGE = 1048576, 64
local answer, shown, bytes, limit = {'done', ''}, 0, 0, tonumber(ARGV[5])
local after = ARGV[4] == '' and '-' or '(' .. ARGV[4]
while shown < limit do
  local ids = call('ZRANGE', base .. 'si', after, '+', 'BYLEX', 'LIMIT', 0, PAGE)
  for _, id in ipairs(ids) do
    if shown == limit or bytes >= BYTES then break end
    after = '(' .. id
    local row = not is_expired(id) and subscription(id)
    if row then
      append_subscription(answer, id, row)
      shown, bytes = shown + 1, bytes + #row[4] + #row[5]
    end
  end
  if bytes >= BYTES and shown < limit then
    answer[2] = 1
    break
  end
  if #ids < PAGE then break end
end
return answer
