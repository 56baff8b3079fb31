-- A head that is frozen for a move does nothing more: see moves.rs.
if head[8] and not answered then return {'moved', head[8]} end
