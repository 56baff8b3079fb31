-- See settle.lua.
if due == 0 and not answered then
  local count, is_left
  count, is_left, due = settle(now)
  if count > 0 or is_left then return {'again'} end
end
