local function expired_members(key, limit)
  return call('ZRANGE', base .. key, '-inf', now, 'BYSCORE', 'LIMIT', 0, limit)
end

-- Ends due claims and delays and deletes expired messages, about `budget` of them. Answers how
-- many, and whether claims or delays are still due.
local function end_due(budget)
  -- A full server lets a script continue once it has executed any write.
  call('DEL', base .. '!')
  local done = 0
  while done < budget do
    local id = expired_members('e', 1)[1]
    if not id then break end
    done = done + 1 + release(id)
  end
  if done < budget then
    local positions, free = expired_members('w', budget - done), {}
    for _, position in ipairs(positions) do
      -- Skip members that are not positions.
      if chunk_of(position) then
        free[#free + 1] = position
        free[#free + 1] = position
      end
    end
    write_many('ZREM', 'd', positions)
    write_many('ZREM', 'w', positions)
    write_many('ZADD', 'f', free)
    done = done + #positions
  end
  if done < budget then
    local positions = expired_members('x', budget - done)
    delete_messages(positions, read_many('HMGET', 'k', positions))
    count_expired(#positions)
    done = done + #positions
  end
  local released = math.min(first_score('e'), first_score('w'))
  due = math.min(released, first_score('x'))
  return done, released <= now
end
