-- Ends the lease.
if lease_expires(lease) then expire_lease(lease) end
return {1}
