-- Prefix of every script that depends on time or changes something. The last argument is the
-- envelope: see envelope.rs.
local call = redis.call
local base = string.sub(KEYS[1], 1, -2)
local caller_now, deadline, connected, max_skew, keep, bucket, attempt, request =
  struct.unpack('>I8I8I8I4I4I4Bc12', table.remove(ARGV))
local seconds = call('TIME')
local server_now = seconds[1] * 1000 + math.floor(seconds[2] / 1000)
if server_now > deadline then
  return redis.error_reply('ZLATE the request came after its deadline')
end
if caller_now > 0 and max_skew > 0 and math.abs(caller_now - server_now) > max_skew then
  return redis.error_reply(string.format('ZSKEW %.0f', caller_now - server_now))
end
-- Requests of the last seconds: the answer, or empty if a repeat came first.
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

-- Stores the answer for repeats that must not compute it again.
local function remember(answer)
  call('HSET', requests, request, answer)
  call('PEXPIRE', requests, keep)
end
