-- Whether somebody with an address is subscribed: only for them are entries due.
local function is_wanted()
  local live = string.format('(%.0f', now)
  local all = call('ZCOUNT', base .. 'sx', live, '+inf')
  return all > 0 and all > call('ZCOUNT', base .. 'sl', live, '+inf')
end

-- Ends an entry for workers. What can be followed stays until it cannot.
local function end_entry(first)
  for _, key in ipairs({'ow', 'or', 'od', 'oe'}) do call('ZREM', base .. key, first) end
  if not call('ZSCORE', base .. 'ox', first) then call('UNLINK', base .. 'o:' .. first) end
end

-- Ends entries whose messages have all expired, or any where nobody wants them: `limit` of them at
-- most; how many.
local function end_unwanted(limit)
  local over
  if is_wanted() then
    over = call('ZRANGE', base .. 'oe', '-inf', now, 'BYSCORE', 'LIMIT', 0, limit)
  else
    over = call('ZRANGE', base .. 'oe', 0, limit - 1)
  end
  for _, first in ipairs(over) do end_entry(first) end
  return #over
end

-- Forgets entries that can no longer be followed, `limit` of them at most, and deletes those that
-- are not open; how many.
local function unfollow(limit)
  local over = call('ZRANGE', base .. 'ox', '-inf', now, 'BYSCORE', 'LIMIT', 0, limit)
  for _, first in ipairs(over) do
    call('ZREM', base .. 'ox', first)
    call('ZREM', base .. 'of', first)
    if not call('ZSCORE', base .. 'oe', first) then call('UNLINK', base .. 'o:' .. first) end
  end
  return #over
end
