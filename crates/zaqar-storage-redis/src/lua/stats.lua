-- Counts and ends.
local LOOK, PAGE = 1000, 100

-- The first live place of a state, from either end.
local function first_live(key, is_last)
  for from = 0, LOOK - 1, PAGE do
    local places
    if is_last then
      places = call('ZRANGE', base .. key, from, from + PAGE - 1, 'REV')
    else
      places = call('ZRANGE', base .. key, from, from + PAGE - 1)
    end
    for i, expires in ipairs(ask('ZMSCORE', 'x', places)) do
      if tonumber(expires or 0) > now then return tonumber(places[i]) end
    end
    if #places < PAGE then return nil end
  end
end

local first, last
for _, key in ipairs({'f', 'c', 'd'}) do
  local place = first_live(key, false)
  if place and (not first or place < first) then first = place end
  place = first_live(key, true)
  if place and (not last or place > last) then last = place end
end
local answer = {'done', head[1]}
for _, key in ipairs({'f', 'c', 'd'}) do answer[#answer + 1] = call('ZCARD', base .. key) end
if first and last then
  for _, place in ipairs({first, last}) do
    local record = records({place})[1]
    if not record then break end
    answer[#answer + 1] = place
    answer[#answer + 1] = created(record)
  end
end
return answer
