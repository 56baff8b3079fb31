-- Live subscriptions behind the id ARGV[5], or from the first where it is empty; ARGV[6] of them.
local answer, shown, limit = {'done'}, 0, tonumber(ARGV[6])
local after = ARGV[5] == '' and '-' or '(' .. ARGV[5]
while shown < limit do
  local ids = call('ZRANGE', base .. 'si', after, '+', 'BYLEX', 'LIMIT', 0, limit)
  for _, id in ipairs(ids) do
    after = '(' .. id
    if shown < limit and not is_over(id) then
      tell(answer, id, subscription(id))
      shown = shown + 1
    end
  end
  if #ids < limit then break end
end
return answer
