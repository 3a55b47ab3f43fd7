-- A rank says where it stands, also after the server came back. ARGV: spec_id, token, rank, number.
-- {'ok'} | {'fenced'} | {'gone'}
if is_fenced(ARGV[2]) then return {'fenced'} end
if not load_state() then return {'gone'} end
local rank, number = tonumber(ARGV[3]), tonumber(ARGV[4])
set('need:' .. rank, number)
for _, old in ipairs(redis.call('ZRANGEBYSCORE', name('ready'), '-inf', '(' .. number)) do
  if old % state.world == rank then drop(tonumber(old)) end
end
set('next', math.min(state.next, number)) -- what is ready or claimed from there on is passed over
wake('frees')
return {'ok'}
