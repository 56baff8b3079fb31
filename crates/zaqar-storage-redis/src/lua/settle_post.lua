-- Settles a part of what was committed. Answers `again` if parts are left.
local _, is_left = settle(now)
if is_left then return {'again'} end
return {'done'}
