-- Claims. ARGV[6] is the claim's id, ARGV[7] its ttl in seconds, ARGV[8] in milliseconds, ARGV[9] with the grace; ARGV[10] is the
-- limit; ARGV[11] is how often a message is claimed before it moves, ARGV[12] the last place to look at, both or empty; ARGV[13] is
-- set where this may have been done before; ARGV[14] is a claim to hold dead letters on their way.
-- How long letters are held, so that nobody sees them twice. Whoever claims after that takes them up again.
local ON_THE_WAY = 30
local id, most = ARGV[6], tonumber(ARGV[11]) or math.huge

local function answer_of(found)
  local answer = {'done', head[1]}
  for i, place in ipairs(found.places) do show(answer, place, found.ends[i], found.notes[i], found.records[i]) end
  return answer
end

local function letters_of(places, ends)
  local answer = {'worn', head[3]}
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
  -- The first write takes away: a server that is full lets consumers go on.
  many('ZREM', 'f', places)
  many('ZADD', 'c', held_places)
  many('HSET', 'k', noted)
  call('HSET', base .. 'l', claim, string.format('%s %.0f %s', ttl, now, table.concat(places, ' ')))
  call('ZADD', base .. 'e', over, claim)
  due = math.min(due, over)
end

if ARGV[13] ~= '' then
  local row, letters = call('HGET', base .. 'l', id), call('HGET', base .. 'l', ARGV[14])
  if row then
    local places, notes = held(id, row)
    return answer_of({places = places, ends = ask('ZMSCORE', 'x', places), notes = notes, records = records(places)})
  end
  if letters then
    local places = held(ARGV[14], letters)
    return letters_of(places, ask('ZMSCORE', 'x', places))
  end
end

local found = first_free(tonumber(ARGV[10]), most, tonumber(ARGV[12]) or math.huge)
if #found.worn > 0 then
  local over = now + ON_THE_WAY * 1000
  local at = unpromised(over)
  if at then return {'hint', at} end
  local notes = {}
  for i, note in ipairs(ask('HMGET', 'k', found.worn)) do
    notes[i] = string.format('%.0f %s', claims(note), ARGV[14])
  end
  hold(found.worn, notes, ARGV[14], ON_THE_WAY, over)
  save()
  return letters_of(found.worn, found.worn_ends)
end
with_records(found)
if #found.places == 0 then
  if found.is_end then return {'done', head[1]} end
  return {'again'}
end
local over = math.min(now + tonumber(ARGV[8]), FOREVER)
local at = unpromised(over)
if at then return {'hint', at} end

local till = math.min(now + tonumber(ARGV[9]), FOREVER)
local longer = {}
for i, place in ipairs(found.places) do
  if found.ends[i] < till then
    found.ends[i] = till
    longer[#longer + 1] = till
    longer[#longer + 1] = place
  end
  found.notes[i] = string.format('%.0f %s', claims(found.notes[i]) + 1, id)
end
hold(found.places, found.notes, id, ARGV[7], over)
many('ZADD', 'x', longer)
is_live[id] = true
save()
return answer_of(found)
