-- A producer gives its claim back. ARGV: spec_id, producer, '1' when it goes for good. {'ok'} | {'gone'}
if not load_state() then return {'gone'} end
local producer = ARGV[2]
local held = held_by(producer)
if held then abandon(held) end
if ARGV[3] == '1' then
  redis.call('ZREM', name('alive'), producer)
  redis.call('HDEL', name('producers'), producer)
end
return {'ok'}
