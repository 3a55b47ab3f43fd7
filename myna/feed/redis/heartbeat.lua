-- The holder of the run lives. ARGV: spec_id, token, lease ms, what it says. {'ok'} | {'fenced'} | {'gone'}
if is_fenced(ARGV[2]) then return {'fenced'} end
if not load_state() or redis.call('EXISTS', name('trainer')) == 0 then return {'gone'} end
redis.call('HSET', name('trainer'), 'says', ARGV[4], 'seen', now)
redis.call('PEXPIRE', name('trainer'), ARGV[3])
keep_all()
for _, producer in ipairs(redis.call('ZRANGEBYSCORE', name('alive'), '-inf', now - 6 * state.lease)) do
  redis.call('ZREM', name('alive'), producer)
  redis.call('HDEL', name('producers'), producer)
end

-- A server that evicts keys may have taken the charges: they are made up from what is there.
if redis.call('HLEN', name('reserved')) < redis.call('ZCARD', name('ready')) then
  for _, number in ipairs(redis.call('ZRANGE', name('ready'), 0, -1)) do
    redis.call('HSETNX', name('reserved'), number, stored_cost(redis.call('STRLEN', payload(number))))
  end
  keep('reserved')
end
local charged = 0
for _, bytes in ipairs(redis.call('HVALS', name('reserved'))) do charged = charged + bytes end
set('used', charged)
measure()
return {'ok'}
