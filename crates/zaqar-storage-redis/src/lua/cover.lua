-- The index of expiry, `x`, has one entry for all messages of a chunk that have the same life: the
-- member `b` and the chunk, at the time when the first of them expires. Their records have that
-- life. They expire in the order of their positions, because a queue's time does not go back. Any
-- other message has an entry of its own, by its position, which precedes its record: one of another
-- life than the first of its chunk, and one whose claim has extended it.
--
-- The head's field `m` names the chunk that is open for such messages, and their life, or `-` after
-- the queue's time was corrected; nothing is added to the entry of another chunk.
local function open(chunk, life)
  local before = read_open()
  open_chunk, open_life = chunk, tonumber(life)
  call('HSET', KEYS[1], 'm', string.format('%.0f %s', chunk, life))
  if before >= 0 and before ~= chunk then forget_if_empty(before) end
end

-- Whether the entry of its chunk covers a message that was stored at `at` and expires at `ends`, as
-- its record says.
local function is_covered(chunk, at, ends)
  if read_open() < chunk then
    open(chunk, string.format('%.0f', ends - at))
    call('ZADD', base .. 'x', ends, 'b' .. chunk)
    call('ZADD', base .. 'q', chunk, chunk)
  end
  return open_chunk == chunk and open_life == ends - at
end
