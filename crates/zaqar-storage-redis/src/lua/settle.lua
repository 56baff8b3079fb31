-- Where claims or delays are over, ends them before anything is said of who is free: a bounded piece, and the caller comes again
-- until ARGV[5] says to go on regardless. It says `as it is` for what does not depend on it.
if now >= due and ARGV[5] ~= 'as it is' then
  local done, left = turn(500)
  if done > 0 then
    save()
  else
    -- Only a better bound: a server that is full need not take it.
    redis.pcall('HSET', KEYS[1], 'd', finite(due))
  end
  if left and ARGV[5] == '' then return {'again'} end
end
