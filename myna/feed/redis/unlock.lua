-- The holder of the run lets go. ARGV: spec_id, token. {'ok'}
if redis.call('HGET', name('trainer'), 'token') == ARGV[2] then redis.call('DEL', name('trainer')) end
return {'ok'}
