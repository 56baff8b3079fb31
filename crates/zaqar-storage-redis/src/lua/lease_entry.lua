-- Leases outbox entries until ARGV[4]: of those that are due, the oldest, at most ARGV[5], with
-- about ARGV[6] bytes, up to an older one that is leased. Answers, for each entry, its first
-- position, its number of fields, and the fields.
local PAGE = 250
local answer = {'done', head[1]}
local function add(first, parts)
  answer[#answer + 1] = first
  answer[#answer + 1] = #parts
  for _, part in ipairs(parts) do answer[#answer + 1] = part end
end
if answered then
  for first in string.gmatch(answered, '%d+') do
    -- The entry may have been settled in the meantime.
    local parts = call('LRANGE', base .. 'o:' .. first, 0, -1)
    if #parts > 0 then add(first, parts) end
  end
  return answer
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
-- The oldest entry with a live lease blocks those after it.
local blocked_from = math.huge
for _ = 1, PAGE do
  local first = call('ZRANGE', base .. 'ol', 0, 0)[1]
  if not first then break end
  -- Skip members that are not positions.
  if chunk_of(first) and tonumber(call('ZSCORE', base .. 'ow', first) or 0) > now then
    blocked_from = tonumber(first)
    break
  end
  call('ZREM', base .. 'ol', first)
end
local limit, most, bytes = tonumber(ARGV[5]), tonumber(ARGV[6]), 0
local firsts, by_lease, by_age = {}, {}, {}
local lease_ends = math.max(tonumber(ARGV[4]), now)
for _ = 1, PAGE do
  local first = call('ZRANGE', base .. 'or', #firsts, #firsts)[1]
  if #firsts >= limit or not first or (tonumber(first) or 0) >= blocked_from then break end
  local parts = redis.pcall('LRANGE', base .. 'o:' .. first, 0, -1)
  if parts.err or #parts == 0 then
    -- Not an entry that this store wrote: end it, so that it does not block the others.
    end_entry(first)
  else
    for _, part in ipairs(parts) do bytes = bytes + #part end
    if #firsts > 0 and bytes > most then break end
    add(first, parts)
    local n = #by_age
    firsts[#firsts + 1] = first
    by_lease[n + 1], by_lease[n + 2] = lease_ends, first
    by_age[n + 1], by_age[n + 2] = first, first
  end
end
if #firsts == 0 then return {'none'} end
write_many('ZREM', 'or', firsts)
write_many('ZREM', 'od', firsts)
write_many('ZADD', 'ow', by_lease)
write_many('ZADD', 'ol', by_age)
save()
remember(table.concat(firsts, ' '))
return answer
