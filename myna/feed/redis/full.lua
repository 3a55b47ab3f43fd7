-- The server has no memory left for a batch whose room we had reserved. ARGV: spec_id, producer, number. {'ok'} | {'gone'}
if not load_state() then return {'gone'} end
local number = tonumber(ARGV[3])
if redis.call('HGET', name('owners'), number) == ARGV[2] then charge(number, 0) end
measure()
set('full', 1)
return {'ok'}
