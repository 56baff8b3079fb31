-- The usual claims, in a straight line: nothing is due, and the first free messages are live and
-- may be claimed. Whatever else there is falls through to claim.lua, which says what the arguments
-- are; both do the same to the same keys. Several claims are carried out here or not at all.
local wanted = 0
for i = 12, #ARGV, 5 do wanted = wanted + ARGV[i] end
local is_plain = not answered and now < due and ARGV[6] == '' and wanted <= 256
local places = is_plain and call('ZRANGE', base .. 'f', 0, wanted - 1) or {}
if is_plain and #places == 0 then
  local answer = {'done', head[1]}
  for _ = 12, #ARGV, 5 do answer[#answer + 1] = 0 end
  return answer
end
local ends, notes, records = {}, {}, {}
if is_plain then
  local most = tonumber(ARGV[5]) or math.huge
  ends = call('ZMSCORE', base .. 'x', unpack(places))
  notes = call('HMGET', base .. 'k', unpack(places))
  local i = 1
  while is_plain and i <= #places do
    local chunk, fields, from = math.floor((tonumber(places[i]) or 0) / 256), {}, i
    while i <= #places do
      local place, count = tonumber(places[i]), 0
      if not place or tonumber(ends[i] or 0) <= now then
        is_plain = false
        break
      end
      if math.floor(place / 256) ~= chunk then break end
      fields[#fields + 1] = place % 256
      if notes[i] then count = tonumber(string.match(notes[i], '^%d+')) or 0 end
      if count >= most then is_plain = false end
      notes[i] = count + 1
      i = i + 1
    end
    if is_plain then
      local found = call('HMGET', base .. 'b:' .. chunk, unpack(fields))
      for n = 1, #fields do
        records[from + n - 1] = found[n]
        if not found[n] then is_plain = false end
      end
    end
  end
end
if is_plain then
  local answer, held, noted, longer, rows, claims = {'done', head[1]}, {}, {}, {}, {}, {}
  local soonest, at = math.huge, 1
  for i = 8, #ARGV, 5 do
    local id, over, till = ARGV[i], now + ARGV[i + 2], now + ARGV[i + 3]
    local to = math.min(at + ARGV[i + 4] - 1, #places)
    if over > FOREVER then over = FOREVER end
    if till > FOREVER then till = FOREVER end
    answer[#answer + 1] = to - at + 1
    if to >= at then
      if over < soonest then soonest = over end
      local taken = table.concat(places, ' ', at, to)
      rows[#rows + 1] = id
      rows[#rows + 1] = string.format('%s %.0f %s', ARGV[i + 1], now, taken)
      claims[#claims + 1] = over
      claims[#claims + 1] = id
    end
    for n = at, to do
      local place = places[n]
      if tonumber(ends[n]) < till then
        ends[n] = till
        longer[#longer + 1] = till
        longer[#longer + 1] = place
      end
      held[2 * n - 1], held[2 * n] = place, place
      noted[2 * n - 1], noted[2 * n] = place, notes[n] .. ' ' .. id
      local k = #answer
      answer[k + 1], answer[k + 2], answer[k + 3] = place, ends[n], notes[n]
      answer[k + 4], answer[k + 5] = id, records[n]
    end
    at = to + 1
  end
  local promise, due_at = promised, math.max(soonest, now + LEAD)
  if promise < now - OVERDUE then promise = math.huge end
  if due_at < promise then
    if ARGV[3] == '' then return {'hint', due_at} end
    promise = math.min(promise, tonumber(ARGV[3]))
  end
  call('ZREM', base .. 'f', unpack(places))
  call('ZADD', base .. 'c', unpack(held))
  call('HSET', base .. 'k', unpack(noted))
  call('HSET', base .. 'l', unpack(rows))
  call('ZADD', base .. 'e', unpack(claims))
  if #longer > 0 then call('ZADD', base .. 'x', unpack(longer)) end
  if promise == math.huge then promise = '' end
  call('HSET', KEYS[1], 'n', now, 'd', math.min(soonest, due), 'a', promise)
  call('HSET', requests, request, 'claimed')
  call('PEXPIRE', requests, keep)
  return answer
end
if #ARGV > 12 and not answered then return {'slow'} end
