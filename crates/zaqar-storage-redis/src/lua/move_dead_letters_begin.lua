-- Stores dead letters and deletes them from their source, KEYS[3], atomically. Requires that all
-- keys are on one server.
local function arrive()
