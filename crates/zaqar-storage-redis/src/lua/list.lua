-- A page. ARGV[5] is the place before it, ARGV[6] its length, ARGV[7] the client to leave out as
-- records have it, or empty, ARGV[8] the states to show, a letter each, ARGV[9] the life of the
-- queue that ARGV[5] is a place in, or empty. Answers where the next page begins, and whether this
-- one is a slice that ends early, as it has read as many bytes as one step may.
local LOOK, BYTES = 1000, 1048576

-- The first places behind `after`, of all the states together.
local function behind(after, limit)
  local from = string.format('(%.0f', after)
  if #ARGV[8] == 1 then
    return call('ZRANGE', base .. ARGV[8], from, '+inf', 'BYSCORE', 'LIMIT', 0, limit)
  end
  local merged = {}
  for key in string.gmatch(ARGV[8], '.') do
    local some = call('ZRANGE', base .. key, from, '+inf', 'BYSCORE', 'LIMIT', 0, limit)
    for _, place in ipairs(some) do
      merged[#merged + 1] = place
    end
  end
  table.sort(merged, function(a, b) return (tonumber(a) or 0) < (tonumber(b) or 0) end)
  for i = #merged, limit + 1, -1 do merged[i] = nil end
  return merged
end

local after, limit, hide = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7]
if ARGV[9] ~= head[1] then after = 0 end
local answer, shown, looked, bytes, is_end = {'done', head[1], '', ''}, 0, 0, 0, false
while shown < limit and looked < limit + LOOK and bytes < BYTES and not is_end do
  -- Where all are shown, no more than the page: bodies cost most. Where some may be left out, a few
  -- at least. Few at first: nobody knows yet how large they are.
  local least = (hide == '' and looked == 0) and 1 or 16
  local most = 8
  if looked > 0 then
    most = math.min(math.max(math.floor((BYTES - bytes) / (bytes / looked + 64)), 4), 256)
  end
  local want = math.min(math.max(limit - shown, least), most)
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
    after = tonumber(place) or after
    looked = looked + 1
    if live[n + 1] == place then
      n = n + 1
      local record = bodies[n]
      bytes = bytes + (record and #record or 0)
      if record and (hide == '' or string.sub(record, 10, 9 + #hide) ~= hide) then
        show(answer, place, ends[i], notes[n], record)
        shown = shown + 1
      end
    end
  end
end
if shown < limit and bytes >= BYTES and not is_end then answer[4] = 1 end
if looked > 0 and not (is_end and shown == 0) then answer[3] = string.format('%.0f', after) end
return answer
