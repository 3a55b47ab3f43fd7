-- A producer says that it lives and how it does. ARGV: spec_id, producer, what it says or ''.
-- {'ok', number it holds or -1} | {'done'} | {'gone'}
if not load_state() then return {'gone'} end
local producer = ARGV[2]
seen(producer)
if ARGV[3] ~= '' then
  redis.call('HSET', name('producers'), producer, ARGV[3])
  keep('producers')
end
if state.done == 1 then return {'done'} end
local held = held_by(producer)
if held then
  lease(held)
  return {'ok', held}
end
return {'ok', -1}
