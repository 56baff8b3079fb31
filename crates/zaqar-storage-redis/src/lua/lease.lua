-- Leases the oldest due entry until ARGV[4].
local PAGE = 1000
local function leased(first, parts)
  local answer = {'done', head[1], first}
  for _, part in ipairs(parts) do
    answer[#answer + 1] = part
  end
  return answer
end
if answered then
  -- It may have been settled since.
  local parts = call('LRANGE', base .. 'o:' .. answered, 0, -1)
  if #parts == 0 then return {'none'} end
  return leased(answered, parts)
end
if not is_wanted() then return {'none'} end
-- Where more than this has expired, the sweep is not done yet: what is left must not be leased.
for n = 1, 10 do
  if end_unwanted(PAGE) < PAGE then break end
  if n == 10 then return {'none'} end
end
-- What has come due stands in line by age.
for _ = 1, 10 do
  local come = call('ZRANGE', base .. 'ow', '-inf', now, 'BYSCORE', 'LIMIT', 0, PAGE, 'WITHSCORES')
  local firsts, by_age, by_due = {}, {}, {}
  for i = 1, #come, 2 do
    firsts[#firsts + 1] = come[i]
    -- What is no place goes nowhere.
    if chunk_of(come[i]) then
      local n = #by_age
      by_age[n + 1], by_age[n + 2] = come[i], come[i]
      by_due[n + 1], by_due[n + 2] = come[i + 1], come[i]
    end
  end
  many('ZREM', 'ow', firsts)
  many('ZADD', 'or', by_age)
  many('ZADD', 'od', by_due)
  if #firsts < PAGE then break end
end
local first, parts
for _ = 1, PAGE do
  first = call('ZRANGE', base .. 'or', 0, 0)[1]
  if not first then return {'none'} end
  parts = redis.pcall('LRANGE', base .. 'o:' .. first, 0, -1)
  if not parts.err and #parts > 0 then break end
  -- Nothing that we wrote: it must not stand in the way of the others.
  end_entry(first)
end
if parts.err or #parts == 0 then return {'none'} end
call('ZREM', base .. 'or', first)
call('ZREM', base .. 'od', first)
call('ZADD', base .. 'ow', math.max(tonumber(ARGV[4]), now), first)
save()
remember(first)
return leased(first, parts)
