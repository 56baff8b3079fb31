-- Makes a post that was stored in parts visible, all of it at once: gives it positions, and names
-- it in the head. Everything that reads messages or entries settles it first: see settle.lua.
-- ARGV[4] and ARGV[5] as in post_begin.lua; then follow the post's id, the number of its parts and
-- messages, and the shortest delay in milliseconds. Answers as post.lua, or `none` if a part is
-- lost.
local id, parts, count = ARGV[6], tonumber(ARGV[7]), tonumber(ARGV[8])
if call('HEXISTS', KEYS[1], 'u') == 1 then
  settle(now)
  return {'again'}
end
if call('LLEN', base .. 'u:' .. id) ~= parts then return {'none'} end
local entry_due = math.min(now + tonumber(ARGV[9]), FOREVER)
-- A sweep settles what nobody reads.
local unscheduled_answer = unscheduled(now, entry_due)
if unscheduled_answer then return unscheduled_answer end
if not begin(count) then return {'no positions'} end
local first, news = string.format('%.0f', last + 1), ''
last = last + count
if head[9] then add_fresh(0, tonumber(head[9]), last) end
if for_workers and entry_due < first_entry_due() then news = entry_due end
-- A list of another name, which no late part reaches.
call('RENAME', base .. 'u:' .. id, base .. 'v:' .. id)
call('PERSIST', base .. 'v:' .. id)
remember(first)
due = 0
save('p', last, 'o', finite(entry_scheduled), 'u', string.format(
  '%s %s %.0f %.0f %s %s', id, first, count, now, for_followers and ARGV[5] or '-',
  for_workers and 'w' or '-'))
return {'done', first, news}
