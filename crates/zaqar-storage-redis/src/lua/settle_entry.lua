-- Settles the entry ARGV[4].
end_entry(ARGV[4])
return {'done'}
