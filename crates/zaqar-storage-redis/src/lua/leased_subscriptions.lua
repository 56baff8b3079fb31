-- Live subscriptions on the lease ARGV[4] behind the id ARGV[5], or from the first where it is
-- empty; ARGV[6] of them, each with its end.
local answer, shown, lease, limit = {'done'}, 0, ARGV[4], tonumber(ARGV[6])
local after = (ARGV[5] == '' and '[' or '(') .. lease .. ARGV[5]
while shown < limit do
  local want = math.min(limit - shown, 1000)
  local last = '(' .. lease .. '\255'
  local members = call('ZRANGE', base .. 'sm', after, last, 'BYLEX', 'LIMIT', 0, want)
  local ids = {}
  for i, member in ipairs(members) do ids[i] = string.sub(member, #lease + 1) end
  for i, till in ipairs(ask('ZMSCORE', 'sx', ids)) do
    after = '(' .. members[i]
    if tonumber(till or 0) > now then
      answer[#answer + 1] = ids[i]
      answer[#answer + 1] = till
      shown = shown + 1
    end
  end
  if #members < want then break end
end
return answer
