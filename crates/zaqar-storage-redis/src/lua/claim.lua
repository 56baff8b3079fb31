-- Claims. ARGV[5] is how often a message is claimed before it moves, ARGV[6] the last place to look
-- at, both or empty; ARGV[7] is a claim to hold dead letters on their way. Then come five for each
-- claim: its id, its ttl in seconds, in milliseconds, and with the grace, and the limit. Answers
-- for each one how many messages it got, and they; `slow` where several cannot be carried out
-- together. How long letters are held, so that nobody sees them twice. Whoever claims after that
-- takes them up again.
local ON_THE_WAY = 30
local id, most, moving = ARGV[8], tonumber(ARGV[5]) or math.huge, ARGV[7]

local function add(answer, found)
  answer[#answer + 1] = #found.places
  for i, place in ipairs(found.places) do
    show(answer, place, found.ends[i], found.notes[i], found.records[i])
  end
end

local function dead_letters_of(places, ends)
  local answer = {'exhausted', head[3]}
  for i, record in ipairs(records(places)) do
    if record and ends[i] then
      answer[#answer + 1] = places[i]
      answer[#answer + 1] = ends[i]
      answer[#answer + 1] = record
    end
  end
  return answer
end

-- Gives messages to a claim.
local function hold(places, notes, claim, ttl, over)
  local held_places, noted = {}, {}
  for i, place in ipairs(places) do
    held_places[#held_places + 1] = place
    held_places[#held_places + 1] = place
    noted[#noted + 1] = place
    noted[#noted + 1] = notes[i]
  end
  many('ZREM', 'f', places)
  many('ZADD', 'c', held_places)
  many('HSET', 'k', noted)
  call('HSET', base .. 'l', claim, string.format('%s %.0f %s', ttl, now, table.concat(places, ' ')))
  call('ZADD', base .. 'e', over, claim)
  due = math.min(due, over)
end

if answered == 'moving' then
  local row = call('HGET', base .. 'l', moving)
  local places = row and held(moving, row) or {}
  return dead_letters_of(places, ask('ZMSCORE', 'x', places))
end
if answered then
  local answer = {'done', head[1]}
  for i = 8, #ARGV, 5 do
    -- A claim may have ended since.
    local row = call('HGET', base .. 'l', ARGV[i])
    local found = {places = {}, notes = {}}
    if row then found.places, found.notes = held(ARGV[i], row) end
    found.ends, found.records = ask('ZMSCORE', 'x', found.places), records(found.places)
    add(answer, found)
  end
  return answer
end

local found = first_free(tonumber(ARGV[12]), most, tonumber(ARGV[6]) or math.huge)
if #found.exhausted > 0 then
  local over = now + ON_THE_WAY * 1000
  local at = unpromised(over)
  if at then return {'hint', at} end
  local notes = {}
  for i, note in ipairs(ask('HMGET', 'k', found.exhausted)) do
    notes[i] = string.format('%.0f %s', claims(note), moving)
  end
  hold(found.exhausted, notes, moving, ON_THE_WAY, over)
  save()
  remember('moving')
  return dead_letters_of(found.exhausted, found.exhausted_ends)
end
with_records(found)
if #found.places == 0 then
  if found.is_end then return {'done', head[1], 0} end
  return {'again'}
end
local over = math.min(now + tonumber(ARGV[10]), FOREVER)
local at = unpromised(over)
if at then return {'hint', at} end

local till = math.min(now + tonumber(ARGV[11]), FOREVER)
local longer = {}
for i, place in ipairs(found.places) do
  if found.ends[i] < till then
    found.ends[i] = till
    longer[#longer + 1] = till
    longer[#longer + 1] = place
  end
  found.notes[i] = string.format('%.0f %s', claims(found.notes[i]) + 1, id)
end
hold(found.places, found.notes, id, ARGV[9], over)
many('ZADD', 'x', longer)
is_live[id] = true
save()
remember('claimed')
local answer = {'done', head[1]}
add(answer, found)
return answer
