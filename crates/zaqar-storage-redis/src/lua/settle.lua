-- Where claims or delays are over, ends them before anything is said of who is free: a bounded
-- piece, and the caller comes again until ARGV[4] says to go on regardless. It says `as it is` for
-- what does not depend on it. A repeat is answered at once: by another call it would not be known.
if now >= due and ARGV[4] ~= 'as it is' and not answered then
  local done, left = end_due(500)
  if done > 0 then
    save()
  else
    -- Only a better bound: a server that is full need not take it.
    redis.pcall('HSET', KEYS[1], 'd', finite(due))
  end
  if left and ARGV[4] == '' then return {'again'} end
end
