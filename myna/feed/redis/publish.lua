-- The holder of the run says what is to be made, from which number on. Ready batches of the same spec stay.
-- ARGV: spec_id, token, spec, start, total, world size, limit bytes, lease ms, expire ms. {'ok'} | {'fenced'}
if is_fenced(ARGV[2]) then return {'fenced'} end
local is_same = load_state()
local start, world = tonumber(ARGV[4]), tonumber(ARGV[6])
redis.call('HSET', name('state'), 'spec_id', spec_id, 'start', start, 'next', start, 'total', ARGV[5], 'world', world,
  'limit', ARGV[7], 'lease', ARGV[8], 'expire', ARGV[9], 'full', 0, 'hungry', 0, 'done', 0)
redis.call('HDEL', name('state'), 'failure')
for rank = 0, world - 1 do redis.call('HDEL', name('state'), 'need:' .. rank) end
redis.call('DEL', name('again'), name('fails'))
load_state()
keep('state')
redis.call('SET', name('spec'), ARGV[3], 'PX', state.expire)
if is_same then
  for _, old in ipairs(redis.call('ZRANGEBYSCORE', name('ready'), '-inf', '(' .. start)) do drop(tonumber(old)) end
else
  redis.call('DEL', name('claims'), name('owners'), name('held'), name('reserved'), name('ready'))
  set('used', 0)
end

local own, all = redis.call('ZCARD', name('ready')) + redis.call('EXISTS', name('trainer')), 0
for _, suffix in ipairs(SUFFIXES) do own = own + redis.call('EXISTS', name(suffix)) end
local keyspace = redis.pcall('INFO', 'keyspace')
if type(keyspace) == 'string' then
  for count in keyspace:gmatch('keys=(%d+)') do all = all + count end
end
set('shared', all > own and 1 or 0)
set('overhead', 0)
measure()
wake('puts')
wake('frees')
return {'ok'}
