-- Rows of what has expired that one step passes over.
local LOOK = 2000
-- Messages that one step hands over for the dead-letter queue.
local MOST_MOVED = 50

-- The first free messages up to the place `last`: those to take, and on the way those that have
-- expired and those that were claimed `most` times.
local function first_free(limit, most, last)
  local found = {places = {}, ends = {}, notes = {}, gone = {}, gone_notes = {}, is_end = false}
  found.exhausted, found.exhausted_ends = {}, {}
  local looked = 0
  while #found.places < limit and #found.exhausted < MOST_MOVED and #found.gone < LOOK
    and not found.is_end do
    local want = math.min(limit - #found.places, 1000)
    local places = call('ZRANGE', base .. 'f', looked, looked + want - 1)
    local ends, notes = ask('ZMSCORE', 'x', places), ask('HMGET', 'k', places)
    for i, place in ipairs(places) do
      local expires = tonumber(ends[i] or 0)
      if (tonumber(place) or 0) > last then
        found.is_end = true
        break
      elseif expires <= now then
        found.gone[#found.gone + 1] = place
        found.gone_notes[#found.gone] = notes[i]
      elseif claims(notes[i]) >= most then
        found.exhausted[#found.exhausted + 1] = place
        found.exhausted_ends[#found.exhausted] = expires
      else
        found.places[#found.places + 1] = place
        found.ends[#found.places] = expires
        found.notes[#found.places] = notes[i]
      end
    end
    looked = looked + #places
    if #places < want then found.is_end = true end
  end
  return found
end

-- Leaves out, and removes, places whose record is not there: a server that evicts keys has thrown
-- it away.
local function with_records(found)
  found.records = records(found.places)
  local kept = {places = {}, ends = {}, notes = {}, records = {}}
  for i, place in ipairs(found.places) do
    if found.records[i] then
      local n = #kept.places + 1
      kept.places[n], kept.ends[n] = place, found.ends[i]
      kept.notes[n], kept.records[n] = found.notes[i], found.records[i]
    else
      found.gone[#found.gone + 1] = place
      found.gone_notes[#found.gone] = found.notes[i]
    end
  end
  found.places, found.ends = kept.places, kept.ends
  found.notes, found.records = kept.notes, kept.records
  drop(found.gone, found.gone_notes)
end
