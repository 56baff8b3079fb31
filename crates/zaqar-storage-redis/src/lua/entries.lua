-- Whether a subscription with an address is live: entries are due only for those.
local function is_wanted()
  local live = string.format('(%.0f', now)
  local all = call('ZCOUNT', base .. 'sx', live, '+inf')
  return all > 0 and all > call('ZCOUNT', base .. 'sl', live, '+inf')
end

-- Ends an entry for workers. It is kept as long as it can be followed.
local function end_entry(first)
  for _, key in ipairs({'ow', 'or', 'od', 'ol', 'oe'}) do call('ZREM', base .. key, first) end
  if not call('ZSCORE', base .. 'ox', first) then call('UNLINK', base .. 'o:' .. first) end
end

-- Ends at most `limit` entries whose messages have all expired, or any entries if no subscription
-- with an address is live. Answers how many.
local function end_unwanted(limit)
  local expired
  if is_wanted() then
    expired = call('ZRANGE', base .. 'oe', '-inf', now, 'BYSCORE', 'LIMIT', 0, limit)
  else
    expired = call('ZRANGE', base .. 'oe', 0, limit - 1)
  end
  for _, first in ipairs(expired) do end_entry(first) end
  return #expired
end

-- Removes at most `limit` entries from the follow index once their time is over, and deletes those
-- that are not pending for workers. Answers how many.
local function unfollow(limit)
  local expired = call('ZRANGE', base .. 'ox', '-inf', now, 'BYSCORE', 'LIMIT', 0, limit)
  for _, first in ipairs(expired) do
    call('ZREM', base .. 'ox', first)
    call('ZREM', base .. 'of', first)
    if not call('ZSCORE', base .. 'oe', first) then call('UNLINK', base .. 'o:' .. first) end
  end
  return #expired
end
