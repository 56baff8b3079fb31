-- Counts, and the oldest and newest message.
local MAX_SCANNED, PAGE = 1000, 100

-- The first or last live position of a state. It is nearly always the one at the end, which is read
-- alone before others are.
local function first_live(key, is_last)
  local from, count = 0, 1
  while from < MAX_SCANNED do
    local positions
    if is_last then
      positions = call('ZRANGE', base .. key, from, from + count - 1, 'REV')
    else
      positions = call('ZRANGE', base .. key, from, from + count - 1)
    end
    for i, expires in ipairs(read_many('ZMSCORE', 'x', positions)) do
      if tonumber(expires or 0) > now then return tonumber(positions[i]) end
    end
    if #positions < count then return nil end
    from, count = from + count, PAGE
  end
end

local first, last
for _, key in ipairs({'f', 'c', 'd'}) do
  local position = first_live(key, false)
  if position and (not first or position < first) then first = position end
  position = first_live(key, true)
  if position and (not last or position > last) then last = position end
end
local answer = {'done', head[1]}
for _, key in ipairs({'f', 'c', 'd'}) do answer[#answer + 1] = call('ZCARD', base .. key) end
if first and last then
  for _, position in ipairs({first, last}) do
    local record = records({position})[1]
    if not record then break end
    answer[#answer + 1] = position
    answer[#answer + 1] = created(record)
  end
end
return answer
