-- Entries behind the place ARGV[5] that can be followed, ARGV[6] of them: of each its first place, how many parts it has, and they.
unfollow(100)
local answer, shown, after, limit = {'done', head[1]}, 0, ARGV[5], tonumber(ARGV[6])
while shown < limit do
  local firsts = call('ZRANGE', base .. 'of', '(' .. after, '+inf', 'BYSCORE', 'LIMIT', 0, math.min(limit - shown, 1000))
  if #firsts == 0 then break end
  for i, till in ipairs(ask('ZMSCORE', 'ox', firsts)) do
    after = firsts[i]
    if tonumber(till or 0) > now then
      local parts = call('LRANGE', base .. 'o:' .. after, 0, -1)
      answer[#answer + 1] = after
      answer[#answer + 1] = #parts
      for _, part in ipairs(parts) do answer[#answer + 1] = part end
      shown = shown + 1
    end
  end
end
return answer
