-- Live subscriptions behind the id ARGV[4], or from the first where it is empty; ARGV[5] of them,
-- or fewer where they are large: then 1 comes first.
local BYTES, PAGE = 1048576, 64
local answer, shown, bytes, limit = {'done', ''}, 0, 0, tonumber(ARGV[5])
local after = ARGV[4] == '' and '-' or '(' .. ARGV[4]
while shown < limit do
  local ids = call('ZRANGE', base .. 'si', after, '+', 'BYLEX', 'LIMIT', 0, PAGE)
  for _, id in ipairs(ids) do
    if shown == limit or bytes >= BYTES then break end
    after = '(' .. id
    local row = not is_over(id) and subscription(id)
    if row then
      tell(answer, id, row)
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
