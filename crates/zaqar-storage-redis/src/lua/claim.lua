-- Claims. ARGV[5] is the number of claims after which a message moves to the dead-letter queue,
-- ARGV[6] the last position to examine, both or empty; ARGV[7] is the claim that holds dead letters
-- while they move; ARGV[8] the position after which it begins, or empty; ARGV[9] are the caller's
-- keys. Then follow five arguments for each claim: its id, its ttl in seconds, its ttl in
-- milliseconds, ttl plus grace in milliseconds, and the limit. Answers where the next slice begins
-- if this one skipped too many messages that the caller cannot decrypt, the key of the first of
-- these, and, for each claim, the number of messages and the messages; `split` if the claims cannot
-- be executed together.
--
-- How long dead letters are held while they move, in seconds. If the move is not completed, the
-- next claim after that starts it again.
local MOVE_TTL = 30
-- Bytes of dead letters after which a call moves no more of them.
local MOVE_BYTES = 1048576
local id, most, moving = ARGV[10], tonumber(ARGV[5]) or math.huge, ARGV[7]

local function add(answer, found)
  answer[#answer + 1] = #found.positions
  for i, position in ipairs(found.positions) do
    append_message(answer, position, found.ends[i], found.notes[i], found.records[i])
  end
end

local function dead_letters_of(positions, ends)
  local answer = {'exhausted', head[3]}
  for i, record in ipairs(records(positions)) do
    if record and ends[i] then
      answer[#answer + 1] = positions[i]
      answer[#answer + 1] = ends[i]
      answer[#answer + 1] = record
    end
  end
  return answer
end

-- Leaves only as many dead letters as one call moves.
local function limit_dead_letters(positions)
  local bytes, count = 0, 0
  while count < #positions and bytes < MOVE_BYTES do
    count = count + 1
    local record = records({positions[count]})[1]
    bytes = bytes + (record and #record or 0)
  end
  for i = #positions, count + 1, -1 do positions[i] = nil end
end

-- Assigns messages to a claim.
local function hold(positions, notes, claim, ttl, claim_expires)
  local held_positions, noted = {}, {}
  for i, position in ipairs(positions) do
    held_positions[#held_positions + 1] = position
    held_positions[#held_positions + 1] = position
    noted[#noted + 1] = position
    noted[#noted + 1] = notes[i]
  end
  remove_fresh(#positions - write_many('ZREM', 'f', positions))
  write_many('ZADD', 'c', held_positions)
  write_many('HSET', 'k', noted)
  local row = string.format('%s %.0f %s', ttl, now, table.concat(positions, ' '))
  call('HSET', base .. 'l', claim, row)
  call('ZADD', base .. 'e', claim_expires, claim)
  due = math.min(due, claim_expires)
end

-- Moves the cursor past a position. Messages before it that stay free are fresh no more, and get
-- entries.
local function move_past(position, skipped_positions)
  local free = {}
  for _, one in ipairs(skipped_positions) do
    if tonumber(one) > tonumber(position) then break end
    free[#free + 1] = one
    free[#free + 1] = one
  end
  remove_fresh(write_many('ZADD', 'f', free))
  move_cursor(position + 1)
end

if answered == 'moving' then
  local row = call('HGET', base .. 'l', moving)
  local positions = row and held(moving, row) or {}
  return dead_letters_of(positions, expiries(positions, records(positions)))
end
if answered then
  local answer = {'done', head[1], '', ''}
  for i = 10, #ARGV, 5 do
    -- The claim may have ended in the meantime.
    local row = call('HGET', base .. 'l', ARGV[i])
    local found = {positions = {}, notes = {}}
    if row then found.positions, found.notes = held(ARGV[i], row) end
    found.records = records(found.positions)
    found.ends = expiries(found.positions, found.records)
    add(answer, found)
  end
  return answer
end

-- Not after fresh messages, which have no entries: an earlier slice has moved the cursor past those
-- that it skipped.
local first = ARGV[8] == '' and 0 or tonumber(ARGV[8]) + 1
if cursor and cursor < first then first = 0 end
local found = first_free(tonumber(ARGV[14]), most, first, tonumber(ARGV[6]) or math.huge, ARGV[9])
if #found.exhausted > 0 then
  local claim_expires = now + MOVE_TTL * 1000
  local at = needs_schedule(claim_expires)
  if at then return {'schedule', at} end
  limit_dead_letters(found.exhausted)
  local notes = {}
  for i, note in ipairs(read_many('HMGET', 'k', found.exhausted)) do
    notes[i] = string.format('%.0f %s', claims(note), moving)
  end
  hold(found.exhausted, notes, moving, MOVE_TTL, claim_expires)
  save()
  remember('moving')
  return dead_letters_of(found.exhausted, found.exhausted_ends)
end
with_records(found)
if #found.positions == 0 then
  if not found.is_end and skipped.next == '' then return {'retry'} end
  if skipped.next ~= '' then move_past(skipped.next, found.skipped) end
  return {'done', head[1], skipped.next, skipped.key, 0}
end
local claim_expires = math.min(now + tonumber(ARGV[12]), FOREVER)
local at = needs_schedule(claim_expires)
if at then return {'schedule', at} end

local extended = math.min(now + tonumber(ARGV[13]), FOREVER)
local longer = {}
for i, position in ipairs(found.positions) do
  if found.ends[i] < extended then
    found.ends[i] = extended
    longer[#longer + 1] = extended
    longer[#longer + 1] = position
  end
  found.notes[i] = string.format('%.0f %s', claims(found.notes[i]) + 1, id)
end
hold(found.positions, found.notes, id, ARGV[11], claim_expires)
move_past(found.positions[#found.positions], found.skipped)
write_many('ZADD', 'x', longer)
is_live[id] = true
save()
remember('claimed')
local answer = {'done', head[1], skipped.next, skipped.key}
add(answer, found)
return answer
