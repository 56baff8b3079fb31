local function first_of(key)
  return tonumber(call('ZRANGE', base .. key, 0, 0, 'WITHSCORES')[2]) or math.huge
end

local function over(key, limit)
  return call('ZRANGE', base .. key, '-inf', now, 'BYSCORE', 'LIMIT', 0, limit)
end

-- Ends claims and delays and removes messages that are over, about `budget` of them. How many it
-- was, and whether claims or delays are still over.
local function end_due(budget)
  -- A full server lets a script go on that has begun with any write.
  call('DEL', base .. '!')
  local done = 0
  while done < budget do
    local id = over('e', 1)[1]
    if not id then break end
    done = done + 1 + release(id)
  end
  if done < budget then
    local places, free = over('w', budget - done), {}
    for _, place in ipairs(places) do
      -- What is no place goes nowhere.
      if chunk_of(place) then
        free[#free + 1] = place
        free[#free + 1] = place
      end
    end
    many('ZREM', 'd', places)
    many('ZREM', 'w', places)
    many('ZADD', 'f', free)
    done = done + #places
  end
  if done < budget then
    local places = over('x', budget - done)
    drop(places, ask('HMGET', 'k', places))
    done = done + #places
  end
  local released = math.min(first_of('e'), first_of('w'))
  due = math.min(released, first_of('x'))
  return done, released <= now
end
