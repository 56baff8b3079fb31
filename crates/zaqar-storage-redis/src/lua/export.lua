-- Reads a part of what a move takes along: of the kind ARGV[6], after ARGV[7], about ARGV[8] rows.
-- Answers the last row that was examined, or nothing at the end of the kind; then the rows.
local BYTES = 1048576
local kind, after, limit = ARGV[6], ARGV[7], tonumber(ARGV[8])
local answer, bytes, examined, last = {'done', head[1], ''}, 0, 0, ''

local function add(...)
  for _, value in ipairs({...}) do
    answer[#answer + 1] = value
    bytes = bytes + #tostring(value)
  end
end

-- The members of a sorted set after one, or the first ones where that is not there any more: what
-- is read twice is stored once.
local function behind(key, member)
  local rank = member ~= '' and call('ZRANK', base .. key, member)
  local from = rank and rank + 1 or 0
  return call('ZRANGE', base .. key, from, from + limit - 1)
end

if kind == 'c' then
  for _, id in ipairs(behind('e', after)) do
    examined, last = examined + 1, id
    local row = call('HGET', base .. 'l', id)
    local ttl, since = string.match(row or '', '^(%d+) (%d+)')
    local expires = tonumber(call('ZSCORE', base .. 'e', id))
    if ttl and expires > now then add(id, ttl, since) end
  end
elseif kind == 'm' then
  local from = tonumber(after) + 1
  while from and examined < limit and bytes < BYTES do
    local found = messages_from(from, 'fcd', math.min(limit - examined, 8))
    local bodies, ends, notes, next = found.bodies, found.ends, found.notes, found.next
    for i, position in ipairs(found.positions) do
      if bodies[i] and tonumber(ends[i] or 0) > now then
        local visible = call('ZSCORE', base .. 'w', position) or ''
        add(position, ends[i], claims(notes[i]), holder(notes[i]) or '', visible, bodies[i])
      end
    end
    from, examined = next, examined + math.max(#found.positions, 1)
    last = next and decimal(next - 1) or ''
  end
  if from then examined = limit end
elseif kind == 's' then
  local from = after == '' and '-' or '(' .. after
  local ids = call('ZRANGE', base .. 'si', from, '+', 'BYLEX', 'LIMIT', 0, limit)
  for _, id in ipairs(ids) do
    last = id
    local row = not is_expired(id) and subscription(id)
    if row then append_subscription(answer, id, row) end
    bytes = bytes + (row and #row[4] + #row[5] or 0)
    examined = limit
    if bytes >= BYTES then break end
  end
else
  -- Those for workers, or those that can only be followed.
  local firsts, from = kind == 'e' and behind('oe', after) or {}, '(' .. after
  while kind == 'o' and #firsts == 0 do
    local some = call('ZRANGE', base .. 'of', from, '+inf', 'BYSCORE', 'LIMIT', 0, limit)
    for _, first in ipairs(some) do
      from = '(' .. first
      if not call('ZSCORE', base .. 'oe', first) then firsts[#firsts + 1] = first end
    end
    if #some < limit then break end
  end
  for _, first in ipairs(firsts) do
    last, examined = first, limit
    local parts = redis.pcall('LRANGE', base .. 'o:' .. first, 0, -1)
    if not parts.err and #parts > 0 then
      local due_at = call('ZSCORE', base .. 'ow', first) or call('ZSCORE', base .. 'od', first)
      add(first, due_at or '', call('ZSCORE', base .. 'ox', first) or '', #parts)
      for _, part in ipairs(parts) do add(part) end
    end
    if bytes >= BYTES then break end
  end
end
if examined >= limit then answer[3] = last end
return answer
