-- Begins every script that depends on time or changes something. The last argument is the envelope:
-- see envelope.rs.
local call = redis.call
local base = string.sub(KEYS[1], 1, -2)
local stated, deadline, connected, bound, keep, bucket, attempt, request =
  struct.unpack('>I8I8I8I4I4I4Bc12', table.remove(ARGV))
local seconds = call('TIME')
local real = seconds[1] * 1000 + math.floor(seconds[2] / 1000)
if real > deadline then return redis.error_reply('ZLATE the request came after its deadline') end
if stated > 0 and bound > 0 and math.abs(stated - real) > bound then
  return redis.error_reply(string.format('ZSKEW %.0f', stated - real))
end
-- Requests of the last seconds: what was answered, or nothing where a repeat came first.
local requests = base .. 'r:' .. bucket
local answered
if attempt == 1 then
  if call('HEXISTS', requests, request) == 1 then
    return redis.error_reply('ZLATE a repeat came before')
  end
elseif attempt == 2 then
  answered = call('HGET', requests, request)
  if not answered then
    call('HSET', requests, request, '')
    call('PEXPIRE', requests, keep)
  elseif answered == '' then
    answered = nil
  end
end

-- Keeps an answer for repeats that must not find out again.
local function remember(answer)
  call('HSET', requests, request, answer)
  call('PEXPIRE', requests, keep)
end
