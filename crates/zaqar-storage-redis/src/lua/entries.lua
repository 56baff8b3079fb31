-- Forgets entries that can no longer be followed, `limit` of them at most, and throws away those that are not open; how many.
local function unfollow(limit)
  local over = call('ZRANGE', base .. 'ox', '-inf', now, 'BYSCORE', 'LIMIT', 0, limit)
  for _, first in ipairs(over) do
    call('ZREM', base .. 'ox', first)
    call('ZREM', base .. 'of', first)
    if not call('ZSCORE', base .. 'ow', first) and not call('ZSCORE', base .. 'or', first) then
      call('UNLINK', base .. 'o:' .. first)
    end
  end
  return #over
end
