-- Messages that one call passes over, and bytes of them.
local MAX_SCANNED, MAX_BYTES = 500, 4194304
-- Messages that one call hands over to the dead-letter queue.
local MOST_MOVED = 50

-- Finds the first free messages up to the position `last`: those to take, and, before them, those
-- that have expired and those that were claimed `most` times.
local function first_free(limit, most, last)
  local found = {positions = {}, ends = {}, notes = {}, gone = {}, gone_notes = {}, is_end = false}
  found.records, found.exhausted, found.exhausted_ends = {}, {}, {}
  local from, bytes = 0, 0
  while #found.positions < limit and #found.exhausted < MOST_MOVED and #found.gone < MAX_SCANNED
    and bytes < MAX_BYTES and not found.is_end do
    local want = math.min(limit - #found.positions, 1000)
    local some = messages_from(from, 'f', want)
    local positions, bodies, ends, notes = some.positions, some.bodies, some.ends, some.notes
    for i, position in ipairs(positions) do
      local expires, is_taken = tonumber(ends[i] or 0), false
      if (tonumber(position) or 0) > last then
        found.is_end = true
        break
      elseif expires <= now then
        found.gone[#found.gone + 1] = position
        found.gone_notes[#found.gone] = notes[i]
      elseif notes[i] and claims(notes[i]) >= most then
        found.exhausted[#found.exhausted + 1] = position
        found.exhausted_ends[#found.exhausted] = expires
      else
        found.positions[#found.positions + 1] = position
        found.ends[#found.positions] = expires
        found.notes[#found.positions] = notes[i]
        found.records[#found.positions] = bodies[i]
        is_taken = true
      end
      if not is_taken then bytes = bytes + (bodies[i] and #bodies[i] or 0) end
    end
    if not some.next then
      found.is_end = true
    elseif #positions == 0 then
      break
    end
    from = some.next
  end
  return found
end

-- Removes positions whose record is missing, which happens if a server evicts keys.
local function with_records(found)
  count_expired(#found.gone)
  local kept = {positions = {}, ends = {}, notes = {}, records = {}}
  for i, position in ipairs(found.positions) do
    if found.records[i] then
      local n = #kept.positions + 1
      kept.positions[n], kept.ends[n] = position, found.ends[i]
      kept.notes[n], kept.records[n] = found.notes[i], found.records[i]
    else
      found.gone[#found.gone + 1] = position
      found.gone_notes[#found.gone] = found.notes[i]
    end
  end
  found.positions, found.ends = kept.positions, kept.ends
  found.notes, found.records = kept.notes, kept.records
  delete_messages(found.gone, found.gone_notes)
end
