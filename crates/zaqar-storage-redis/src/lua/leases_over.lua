-- Leases that are over and that a sweep has to look at: ARGV[2] of them.
for _, ended in ipairs(call('ZRANGE', base .. 'l', '-inf', now, 'BYSCORE', 'LIMIT', 0, ARGV[2])) do finish(ended) end
return call('ZRANGE', base .. 'lx', '-inf', now, 'BYSCORE', 'LIMIT', 0, ARGV[2])
