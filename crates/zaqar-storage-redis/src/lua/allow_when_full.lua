-- Prefix of scripts that may free memory: a full server lets a script continue once it has executed
-- any write. KEYS[1] without its last letter is the common prefix of all keys that the script uses;
-- the deleted key never exists.
redis.call('DEL', string.sub(KEYS[1], 1, -2) .. '!')
