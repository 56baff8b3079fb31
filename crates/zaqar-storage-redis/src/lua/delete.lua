-- Deletes one message: ARGV[5] is its place, ARGV[6] the claim named, or empty.
local place, named = ARGV[5], ARGV[6]
if tonumber(call('ZSCORE', base .. 'x', place) or 0) <= now then return {'done', 'gone'} end
local note = call('HGET', base .. 'k', place)
local owner = holder(note)
if owner and named == '' then return {'done', 'claimed'} end
if named ~= '' and not owner then return {'done', 'not claimed'} end
if named ~= '' and owner ~= named then return {'done', 'wrong claim'} end
drop({place}, {note})
return {'done', 'gone'}
