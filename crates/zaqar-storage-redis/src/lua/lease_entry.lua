-- Leases the oldest due outbox entry until ARGV[4].
local PAGE = 250
local function leased(first, parts)
  local answer = {'done', head[1], first}
  for _, part in ipairs(parts) do
    answer[#answer + 1] = part
  end
  return answer
end
if answered then
  -- The entry may have been settled in the meantime.
  local parts = call('LRANGE', base .. 'o:' .. answered, 0, -1)
  if #parts == 0 then return {'none'} end
  return leased(answered, parts)
end
if not is_wanted() then return {'none'} end
-- An expired entry must not be leased.
if end_unwanted(PAGE) == PAGE then return {'again'} end
-- Entries that have come due are ordered by age.
local due_members = call(
  'ZRANGE', base .. 'ow', '-inf', now, 'BYSCORE', 'LIMIT', 0, PAGE, 'WITHSCORES')
local firsts, by_age, by_due = {}, {}, {}
for i = 1, #due_members, 2 do
  firsts[#firsts + 1] = due_members[i]
  -- Skip members that are not positions.
  if chunk_of(due_members[i]) then
    local n = #by_age
    by_age[n + 1], by_age[n + 2] = due_members[i], due_members[i]
    by_due[n + 1], by_due[n + 2] = due_members[i + 1], due_members[i]
  end
end
write_many('ZREM', 'ow', firsts)
write_many('ZADD', 'or', by_age)
write_many('ZADD', 'od', by_due)
if #firsts == PAGE then return {'again'} end
local first, parts
for _ = 1, PAGE do
  first = call('ZRANGE', base .. 'or', 0, 0)[1]
  if not first then return {'none'} end
  parts = redis.pcall('LRANGE', base .. 'o:' .. first, 0, -1)
  if not parts.err and #parts > 0 then break end
  -- Not an entry that this store wrote: end it, so that it does not block the others.
  end_entry(first)
end
if parts.err or #parts == 0 then return {'none'} end
call('ZREM', base .. 'or', first)
call('ZREM', base .. 'od', first)
call('ZADD', base .. 'ow', math.max(tonumber(ARGV[4]), now), first)
save()
remember(first)
return leased(first, parts)
