-- Begins scripts that may free memory: a full server lets a script go on that has begun with any
-- write. KEYS[1] without its last letter is what every key begins with that the script works on;
-- this key never exists.
redis.call('DEL', string.sub(KEYS[1], 1, -2) .. '!')
