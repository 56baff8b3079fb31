-- Stores dead letters and removes them from their source, KEYS[3], in one step: where all keys are
-- on one server.
local function arrive()
