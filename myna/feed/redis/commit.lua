-- A producer's batch arrives; runs right before the SET XX of its payload, in one transaction with it.
-- ARGV: spec_id, producer, number, bytes. {'ok'} | {'lost'}: the SET then does nothing | {'gone'}
if not load_state() then return {'gone'} end
local producer, number, size = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local owner = redis.call('HGET', name('owners'), number)
if owner ~= producer or redis.call('HEXISTS', name('reserved'), number) == 0 then return {'lost'} end
redis.call('SET', payload(number), '', 'PX', state.expire) -- the SET XX fills it
end_claim(number)
redis.call('ZADD', name('ready'), number, number)
keep('ready')
charge(number, stored_cost(size))
wake('puts')
return {'ok'}
