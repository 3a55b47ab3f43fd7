-- All that can be seen of a run at one moment. ARGV: spec_id. {'ok', counts, alive, reports, held, trainer} | {'gone'}
if not load_state() then return {'gone'} end
local number, ready_bytes = state.total, state.used
for rank = 0, state.world - 1 do number = math.min(number, need(rank)) end
local claimed = redis.call('ZRANGE', name('claims'), 0, -1)
for _, one in ipairs(claimed) do
  ready_bytes = ready_bytes - (tonumber(redis.call('HGET', name('reserved'), one)) or 0)
end
local counts = {'now', now, 'number', number, 'total', state.total, 'ready', redis.call('ZCARD', name('ready')),
  'ready_bytes', ready_bytes, 'claimed', #claimed, 'used', state.used, 'limit', state.limit, 'budget', budget(),
  'high_mark', high_mark(), 'low_mark', low_mark(), 'full', state.full, 'hungry', state.hungry, 'done', state.done,
  'shared', state.shared, 'failure', redis.call('HGET', name('state'), 'failure') or ''}
local recent = now - 3 * state.lease
return {'ok', counts, redis.call('ZRANGEBYSCORE', name('alive'), recent, '+inf', 'WITHSCORES'),
  redis.call('HGETALL', name('producers')), redis.call('HGETALL', name('held')), redis.call('HGETALL', name('trainer'))}
