-- Stores dead letters and deletes them from their source, KEYS[3], atomically. Requires that all
-- keys are on one server.
local frozen = call('HGET', KEYS[3], 'z')
if frozen and not answered then return {'moved', frozen} end
local function arrive()
