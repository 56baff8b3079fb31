-- A page. ARGV[5] is the position before it, ARGV[6] its length, ARGV[7] the client to hide,
-- encoded as in records, or empty, ARGV[8] the states to list, one letter each, ARGV[9] the
-- incarnation that the position ARGV[5] belongs to, or empty; ARGV[10] the bytes after which the
-- page ends as a slice. Answers where the next page begins, and whether this one is a slice.
local MAX_SCANNED, BYTES = 1000, tonumber(ARGV[10])

-- The first positions after `after`, merged over all the states.
local function behind(after, limit)
  local from = string.format('(%.0f', after)
  if #ARGV[8] == 1 then
    return call('ZRANGE', base .. ARGV[8], from, '+inf', 'BYSCORE', 'LIMIT', 0, limit)
  end
  local merged = {}
  for key in string.gmatch(ARGV[8], '.') do
    local some = call('ZRANGE', base .. key, from, '+inf', 'BYSCORE', 'LIMIT', 0, limit)
    for _, position in ipairs(some) do
      merged[#merged + 1] = position
    end
  end
  table.sort(merged, function(a, b) return (tonumber(a) or 0) < (tonumber(b) or 0) end)
  for i = #merged, limit + 1, -1 do merged[i] = nil end
  return merged
end

local after, limit, hide = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7]
if ARGV[9] ~= head[1] then after = 0 end
local answer, shown, scanned, bytes, is_end = {'done', head[1], '', ''}, 0, 0, 0, false
while shown < limit and scanned < limit + MAX_SCANNED and bytes < BYTES and not is_end do
  -- Without a hidden client, read no more than the page needs, as reading bodies costs most;
  -- otherwise read at least 16. The first read is small because the size of bodies is not known
  -- yet.
  local least = (hide == '' and scanned == 0) and 1 or 16
  local most = 4
  if scanned > 0 then
    most = math.min(math.max(math.floor((BYTES - bytes) / (bytes / scanned + 64)), 1), 256)
  end
  local want = math.min(math.max(limit - shown, least), most)
  local positions = behind(after, want)
  if #positions < want then is_end = true end
  local ends = read_many('ZMSCORE', 'x', positions)
  local live = {}
  for i, position in ipairs(positions) do
    if tonumber(ends[i] or 0) > now then live[#live + 1] = position end
  end
  local notes, bodies = read_many('HMGET', 'k', live), records(live)
  local n = 0
  for i, position in ipairs(positions) do
    if shown == limit then
      is_end = false
      break
    end
    after = tonumber(position) or after
    scanned = scanned + 1
    if live[n + 1] == position then
      n = n + 1
      local record = bodies[n]
      bytes = bytes + (record and #record or 0)
      if record and (hide == '' or string.sub(record, 10, 9 + #hide) ~= hide) then
        append_message(answer, position, ends[i], notes[n], record)
        shown = shown + 1
      end
    end
  end
end
if shown < limit and bytes >= BYTES and not is_end then answer[4] = 1 end
if scanned > 0 and not (is_end and shown == 0) then answer[3] = string.format('%.0f', after) end
return answer
