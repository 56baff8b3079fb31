-- What a hint is ahead of the present at least: time for the step that it announces. See
-- schedule.rs.
local LEAD = 30000
-- A promise that nobody keeps is none.
local OVERDUE = 120000
-- The last time that a score keeps exactly.
local FOREVER = 9007199254740991
-- How far places may stay behind the clock, in microseconds: see keys.rs.
local BEHIND = 45000000
