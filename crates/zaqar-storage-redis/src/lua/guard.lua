if ARGV[2] ~= '' and ARGV[2] ~= head[2] and not answered then
  return {'stale', head[1], head[2]}
end
