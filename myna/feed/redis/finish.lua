-- A rank has used all its numbers. ARGV: spec_id, token, rank. {'ok', 1 when all ranks have} | {'fenced'} | {'gone'}
if is_fenced(ARGV[2]) then return {'fenced'} end
if not load_state() then return {'gone'} end
set('need:' .. ARGV[3], state.total)
for _, old in ipairs(redis.call('ZRANGE', name('ready'), 0, -1)) do
  if old % state.world == tonumber(ARGV[3]) then drop(tonumber(old)) end
end
for rank = 0, state.world - 1 do
  if need(rank) < state.total then return {'ok', 0} end
end
set('done', 1)
set('expire', 60000) -- producers see it until then
keep_all()
wake('frees')
return {'ok', 1}
