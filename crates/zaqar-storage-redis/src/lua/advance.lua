-- Raises the version to ARGV[4]. Versions have 20 digits, so they compare as strings.
if ARGV[4] > head[2] then call('HSET', KEYS[1], 'v', ARGV[4]) end
return {'done'}
