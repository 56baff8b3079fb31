-- At most ARGV[5] entries after the position ARGV[4] that can be followed. Answers 1 first if it
-- stopped early because of their size or number of fields. Then, for each entry: its first
-- position, its number of fields, and the fields.
local BYTES, FIELD = 1048576, 64
unfollow(100)
local answer, shown, bytes, after, limit = {'done', head[1], ''}, 0, 0, ARGV[4], tonumber(ARGV[5])
while shown < limit and bytes < BYTES do
  local want = math.min(limit - shown, 64)
  local firsts = call('ZRANGE', base .. 'of', '(' .. after, '+inf', 'BYSCORE', 'LIMIT', 0, want)
  if #firsts == 0 then break end
  for i, followed_until in ipairs(read_many('ZMSCORE', 'ox', firsts)) do
    if bytes >= BYTES then break end
    after = firsts[i]
    if tonumber(followed_until or 0) > now then
      local parts = redis.pcall('LRANGE', base .. 'o:' .. after, 0, -1)
      if not parts.err and #parts > 0 then
        answer[#answer + 1] = after
        answer[#answer + 1] = #parts
        for _, part in ipairs(parts) do
          answer[#answer + 1] = part
          bytes = bytes + #part + FIELD
        end
        shown = shown + 1
      end
    end
  end
end
if bytes >= BYTES and shown < limit then answer[3] = 1 end
return answer
