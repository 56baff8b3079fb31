-- Ends the lease.
if lasting(lease) then finish(lease) end
return {1}
