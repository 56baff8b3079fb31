-- A page. ARGV[6] is the place before it, ARGV[7] its length, ARGV[8] the client to leave out as records have it, or empty, ARGV[9]
-- the states to show, a letter each, ARGV[10] the life of the queue that ARGV[6] is a place in, or empty.
local LOOK = 1000

-- The first places behind `after`, of all the states together.
local function behind(after, limit)
  local from = string.format('(%.0f', after)
  if #ARGV[9] == 1 then
    return call('ZRANGE', base .. ARGV[9], from, '+inf', 'BYSCORE', 'LIMIT', 0, limit)
  end
  local merged = {}
  for key in string.gmatch(ARGV[9], '.') do
    for _, place in ipairs(call('ZRANGE', base .. key, from, '+inf', 'BYSCORE', 'LIMIT', 0, limit)) do
      merged[#merged + 1] = place
    end
  end
  table.sort(merged, function(a, b) return tonumber(a) < tonumber(b) end)
  for i = #merged, limit + 1, -1 do merged[i] = nil end
  return merged
end

local after, limit, hide = tonumber(ARGV[6]), tonumber(ARGV[7]), ARGV[8]
if ARGV[10] ~= head[1] then after = 0 end
local answer, shown, looked, is_end = {'done', head[1], ''}, 0, 0, false
while shown < limit and looked < limit + LOOK and not is_end do
  -- Where all are shown, no more than the page: bodies cost most. Where some may be left out, a few at least.
  local least = (hide == '' and looked == 0) and 1 or 16
  local want = math.min(math.max(limit - shown, least), 256)
  local places = behind(after, want)
  if #places < want then is_end = true end
  local ends = ask('ZMSCORE', 'x', places)
  local live = {}
  for i, place in ipairs(places) do
    if tonumber(ends[i] or 0) > now then live[#live + 1] = place end
  end
  local notes, bodies = ask('HMGET', 'k', live), records(live)
  local n = 0
  for i, place in ipairs(places) do
    if shown == limit then
      is_end = false
      break
    end
    after = tonumber(place)
    looked = looked + 1
    if live[n + 1] == place then
      n = n + 1
      local record = bodies[n]
      if record and (hide == '' or string.sub(record, 10, 9 + #hide) ~= hide) then
        show(answer, place, ends[i], notes[n], record)
        shown = shown + 1
      end
    end
  end
end
if looked > 0 and not (is_end and shown == 0) then answer[3] = string.format('%.0f', after) end
return answer
