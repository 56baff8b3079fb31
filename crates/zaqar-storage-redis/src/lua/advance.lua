-- Raises the version to ARGV[5]. Versions have 20 digits, so that they compare as texts.
if ARGV[5] > head[2] then call('HSET', KEYS[1], 'v', ARGV[5]) end
return {'done'}
