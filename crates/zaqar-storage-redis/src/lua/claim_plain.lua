-- Fast path for the usual claims: nothing is due, and the first free messages are live, readable,
-- and may be claimed. All other cases fall through to claim.lua, which documents the arguments;
-- both have the same effect on the same keys. Several claims are executed here together or not at
-- all.
local wanted = 0
for i = 14, #ARGV, 5 do wanted = wanted + ARGV[i] end
local is_plain = not answered and now < due and ARGV[6] == '' and ARGV[8] == '' and wanted <= 256
local positions = is_plain and call('ZRANGE', base .. 'f', 0, wanted - 1) or {}
-- Fresh messages are those from the cursor on: see fresh.lua.
local last, cursor = tonumber(head[3]), tonumber(head[9] or math.huge)
local is_fresh = cursor <= last
  and not (positions[wanted] and (tonumber(positions[wanted]) or math.huge) < cursor)
if is_plain and not is_fresh and #positions == 0 then
  local answer = {'done', head[1], '', ''}
  for _ = 14, #ARGV, 5 do answer[#answer + 1] = 0 end
  return answer
end
local ends, notes, records = {}, {}, {}
if is_plain and is_fresh then
  local to = math.min(cursor + wanted - 1, last)
  local other = positions[1] and (tonumber(positions[1]) or 0) or math.huge
  if to < cursor + wanted - 1 and other < math.huge or other < to then is_plain = false end
  positions = {}
  local million = math.floor(cursor / 1000000)
  local digits, rest, at = string.format('%.0f', million), cursor - million * 1000000, cursor
  while is_plain and at <= to do
    local chunk, fields = math.floor(at / 256), {}
    for field = at % 256, math.min(to - chunk * 256, 255) do fields[#fields + 1] = field end
    for _, record in ipairs(call('HMGET', base .. 'b:' .. chunk, unpack(fields))) do
      local flags = record and string.byte(record, 9) or 0
      if flags < 8 or flags % 2 == 1 and not is_readable(record, ARGV[9]) then
        is_plain = false
        break
      end
      local n, offset = #positions + 1, rest + #positions
      if million > 0 and offset < 1000000 then
        positions[n] = digits .. string.format('%06d', offset)
      else
        positions[n] = string.format('%.0f', cursor + n - 1)
      end
      local expires = struct.unpack('>I8', record) + struct.unpack('>I4', record, #record - 3) * 1000
      if expires <= now then is_plain = false end
      records[n], ends[n], notes[n] = record, expires, 1
    end
    at = chunk * 256 + 256
  end
elseif is_plain then
  local most = tonumber(ARGV[5]) or math.huge
  ends = call('ZMSCORE', base .. 'x', unpack(positions))
  notes = call('HMGET', base .. 'k', unpack(positions))
  local i = 1
  while is_plain and i <= #positions do
    local chunk, fields, from = math.floor((tonumber(positions[i]) or 0) / 256), {}, i
    while i <= #positions do
      local position, count = tonumber(positions[i]), 0
      if not position then
        is_plain = false
        break
      end
      if math.floor(position / 256) ~= chunk then break end
      fields[#fields + 1] = position % 256
      if notes[i] then count = tonumber(string.match(notes[i], '^%d+')) or 0 end
      if count >= most then is_plain = false end
      notes[i] = count + 1
      i = i + 1
    end
    if is_plain then
      local found = call('HMGET', base .. 'b:' .. chunk, unpack(fields))
      for n = 1, #fields do
        local record, at = found[n], from + n - 1
        records[at] = record
        -- An entry in the index of expiry precedes the record: see cover.lua.
        local expires = tonumber(ends[at] or nil)
        if not expires and record and #record > 12 and string.byte(record, 9) >= 4 then
          expires = struct.unpack('>I8', record) + struct.unpack('>I4', record, #record - 3) * 1000
        end
        ends[at] = expires
        if not expires or expires <= now or not record or not is_readable(record, ARGV[9]) then
          is_plain = false
        end
      end
    end
  end
end
if is_plain then
  local answer, held, noted, longer, rows, claims = {'done', head[1], '', ''}, {}, {}, {}, {}, {}
  local soonest, at = math.huge, 1
  for i = 10, #ARGV, 5 do
    local id, claim_expires, extended = ARGV[i], now + ARGV[i + 2], now + ARGV[i + 3]
    local to = math.min(at + ARGV[i + 4] - 1, #positions)
    if claim_expires > FOREVER then claim_expires = FOREVER end
    if extended > FOREVER then extended = FOREVER end
    answer[#answer + 1] = to - at + 1
    if to >= at then
      if claim_expires < soonest then soonest = claim_expires end
      local claimed = table.concat(positions, ' ', at, to)
      rows[#rows + 1] = id
      rows[#rows + 1] = string.format('%s %.0f %s', ARGV[i + 1], now, claimed)
      claims[#claims + 1] = claim_expires
      claims[#claims + 1] = id
    end
    for n = at, to do
      local position = positions[n]
      if ends[n] < extended then
        ends[n] = extended
        longer[#longer + 1] = extended
        longer[#longer + 1] = position
      end
      held[2 * n - 1], held[2 * n] = position, position
      noted[2 * n - 1], noted[2 * n] = position, notes[n] .. ' ' .. id
      local k = #answer
      answer[k + 1], answer[k + 2], answer[k + 3] = position, ends[n], notes[n]
      answer[k + 4], answer[k + 5] = id, records[n]
    end
    at = to + 1
  end
  local scheduled_at, due_at = scheduled, math.max(soonest, now + LEAD)
  if scheduled_at < now - OVERDUE then scheduled_at = math.huge end
  if due_at < scheduled_at then
    if ARGV[3] == '' then return {'schedule', due_at} end
    scheduled_at = math.min(scheduled_at, tonumber(ARGV[3]))
  end
  local saved = {'n', now, 'd', math.min(soonest, due)}
  if is_fresh then
    cursor = cursor + #positions
    saved[5], saved[6] = 'q', cursor
    -- No chunk before the cursor is in the index.
    for chunk = math.floor(positions[1] / 256), math.floor(cursor / 256) - 1 do
      call('ZREM', base .. 'q', chunk)
    end
  else
    call('ZREM', base .. 'f', unpack(positions))
  end
  call('ZADD', base .. 'c', unpack(held))
  call('HSET', base .. 'k', unpack(noted))
  call('HSET', base .. 'l', unpack(rows))
  call('ZADD', base .. 'e', unpack(claims))
  if #longer > 0 then call('ZADD', base .. 'x', unpack(longer)) end
  if scheduled_at == math.huge then scheduled_at = '' end
  call('HSET', KEYS[1], 'a', scheduled_at, unpack(saved))
  call('HSET', requests, request, 'claimed')
  call('PEXPIRE', requests, keep)
  return answer
end
if #ARGV > 14 and not answered then return {'split'} end
