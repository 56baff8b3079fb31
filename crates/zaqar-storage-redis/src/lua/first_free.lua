-- Messages that one call passes over, and bytes of them.
local MAX_SCANNED, MAX_BYTES = 500, 4194304
-- Messages that one call hands over to the dead-letter queue.
local MOST_MOVED = 50

-- Finds the first free messages from one position up to another: those to take, and, before them,
-- those that have expired, those that the caller cannot decrypt with `keys`, and those that were
-- claimed `most` times.
local function first_free(limit, most, from, last, keys)
  local found = {positions = {}, ends = {}, notes = {}, gone = {}, gone_notes = {}, is_end = false}
  found.records, found.exhausted, found.exhausted_ends, found.skipped = {}, {}, {}, {}
  local bytes, first = 0, from
  while #found.positions < limit and #found.exhausted < MOST_MOVED and #found.gone < MAX_SCANNED
    and bytes < MAX_BYTES and skipped.next == '' and not found.is_end do
    local want = math.min(math.max(limit - #found.positions, skipped.count > 0 and 16 or 1), 1000)
    local some = messages_from(from, 'f', want)
    local positions, bodies, ends, notes = some.positions, some.bodies, some.ends, some.notes
    for i, position in ipairs(positions) do
      local expires, is_passed = tonumber(ends[i] or 0), true
      if (tonumber(position) or 0) > last then
        found.is_end = true
        break
      elseif #found.positions == limit or skipped.next ~= '' then
        break
      elseif expires <= now then
        found.gone[#found.gone + 1] = position
        found.gone_notes[#found.gone] = notes[i]
      elseif bodies[i] and not is_readable(bodies[i], keys) then
        skip(position, bodies[i])
        found.skipped[#found.skipped + 1] = position
        is_passed = false
      elseif notes[i] and claims(notes[i]) >= most then
        found.exhausted[#found.exhausted + 1] = position
        found.exhausted_ends[#found.exhausted] = expires
      else
        found.positions[#found.positions + 1] = position
        found.ends[#found.positions] = expires
        found.notes[#found.positions] = notes[i]
        found.records[#found.positions] = bodies[i]
        is_passed = false
      end
      if is_passed then bytes = bytes + (bodies[i] and #bodies[i] or 0) end
    end
    if not some.next then
      found.is_end = true
    elseif #positions == 0 then
      -- A call that begins at the cursor has moved it, and is repeated.
      if skipped.count > 0 or first > 0 then skipped.next = some.next - 1 end
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
