-- Ends due claims and delays before the script reads which messages are free: a bounded number per
-- call. If more are due, it answers `retry`, until the caller passes `proceed` in ARGV[4]. Scripts
-- that do not depend on message states pass `skip`. A repeat is never answered `retry`: the next
-- call would not be recognised as a repeat.
if now >= due and ARGV[4] ~= 'skip' and not answered then
  local done, left = end_due(500)
  if done > 0 then
    save()
  else
    -- This only improves a bound, so a full server may reject it.
    redis.pcall('HSET', KEYS[1], 'd', finite(due))
  end
  if left and ARGV[4] == '' then return {'retry'} end
end
