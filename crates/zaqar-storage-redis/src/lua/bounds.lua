-- A schedule entry is set at least this far ahead, so that the call that it announces is executed
-- before the entry is due. See schedule.rs.
local LEAD = 30000
-- A schedule entry that is overdue by more than this is considered lost.
local OVERDUE = 120000
-- The largest integer that a score represents exactly.
local FOREVER = 9007199254740991
-- How far positions may lag behind the clock, in microseconds: see keys.rs.
local MAX_LAG = 45000000
