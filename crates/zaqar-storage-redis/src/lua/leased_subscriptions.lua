-- At most ARGV[6] live subscriptions on the lease ARGV[4] after the id ARGV[5], or from the first
-- if that is empty, each with its expiry.
local answer, shown, lease, limit = {'done'}, 0, ARGV[4], tonumber(ARGV[6])
local after = (ARGV[5] == '' and '[' or '(') .. lease .. ARGV[5]
while shown < limit do
  local want = math.min(limit - shown, 1000)
  local last = '(' .. lease .. '\255'
  local members = call('ZRANGE', base .. 'sm', after, last, 'BYLEX', 'LIMIT', 0, want)
  local ids = {}
  for i, member in ipairs(members) do ids[i] = string.sub(member, #lease + 1) end
  for i, expires in ipairs(read_many('ZMSCORE', 'sx', ids)) do
    after = '(' .. members[i]
    if tonumber(expires or 0) > now then
      answer[#answer + 1] = ids[i]
      answer[#answer + 1] = expires
      shown = shown + 1
    end
  end
  if #members < want then break end
end
return answer
