if head[1] and due <= now then done = turn(budget) end

if head[1] and done < budget then
  local ids = over('sx', budget - done)
  for _, id in ipairs(ids) do unsubscribe(id) end
  done = done + #ids
end

if head[1] and done < budget then done = done + unfollow(budget - done) end

-- Whole chunks of what was purged or closed, and the deliveries of closed heads.
while done < budget do
  local item = call('LINDEX', base .. 'g', 0)
  if not item then break end
  local low, high = string.match(item, '^b (%d+) (%d+)$')
  local is_done = true
  if low then
    low, high = tonumber(low), tonumber(high)
    local last = math.min(high, low + budget - done - 1)
    for chunk = low, last do call('UNLINK', base .. 'b:' .. chunk) end
    done = done + math.max(last - low + 1, 0)
    if last < high then
      is_done = false
      call('LSET', base .. 'g', 0, string.format('b %.0f %.0f', last + 1, high))
    end
  else
    for _, key in ipairs({'ow:', 'or:', 'of:'}) do
      key = base .. key .. string.sub(item, 3)
      local entries = call('ZPOPMIN', key, budget - done)
      for i = 1, #entries, 2 do call('UNLINK', base .. 'o:' .. entries[i]) end
      done = done + #entries / 2
      if call('EXISTS', key) == 1 then
        is_done = false
        break
      end
    end
  end
  if is_done then call('LPOP', base .. 'g') end
end

local next = due
if head[1] then next = math.min(due, first_of('sx'), first_of('ox')) end
local is_left = next <= now or call('EXISTS', base .. 'g') == 1
if head[1] then
  local fields = {'n', now, 'd', due == math.huge and '' or due}
  if not is_left then
    fields[5], fields[6] = 'a', next == math.huge and '' or next
  end
  call('HSET', KEYS[1], unpack(fields))
end
return {done, is_left and 1 or 0, next == math.huge and '' or next}
