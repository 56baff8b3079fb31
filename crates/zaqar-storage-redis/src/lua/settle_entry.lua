-- Settles the entries ARGV[4] and further.
for i = 4, #ARGV do end_entry(ARGV[i]) end
return {'done'}
