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
measure()
return {'ok'}
