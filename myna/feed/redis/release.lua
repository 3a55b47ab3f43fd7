-- A rank has used all its numbers below one. ARGV: spec_id, token, rank, number. {'ok'} | {'fenced'} | {'gone'}
if is_fenced(ARGV[2]) then return {'fenced'} end
if not load_state() then return {'gone'} end
local rank, number = tonumber(ARGV[3]), tonumber(ARGV[4])
if number > need(rank) then set('need:' .. rank, number) end
for _, old in ipairs(redis.call('ZRANGEBYSCORE', name('ready'), '-inf', '(' .. number)) do
  if old % state.world == rank then drop(tonumber(old)) end
end
-- Its producer may wait to be let in, or nobody has been allowed to make it.
if number < state.total and not is_ready(number) then wake('frees') end
return {'ok'}
