if ARGV[2] ~= '' and ARGV[2] ~= head[2] then return {'stale', head[1], head[2]} end
