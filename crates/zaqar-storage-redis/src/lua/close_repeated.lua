if answered then return {'done'} end
