-- A trainer looks for a batch; runs right before the GET of its payload. ARGV: spec_id, token, number.
-- {'there'} | {'wait', id to read `puts` from, producers alive} | {'failed', why, remedy} | {'fenced'} | {'gone'}
if is_fenced(ARGV[2]) then return {'fenced'} end
if not load_state() then return {'gone'} end
local number = tonumber(ARGV[3])
-- Published anew while this rank looked elsewhere: it has yet to say where it stands, which may be before the start.
if redis.call('HEXISTS', name('state'), 'need:' .. number % state.world) == 0 then return {'gone'} end
if is_ready(number) then
  if redis.call('EXISTS', payload(number)) == 1 then return {'there'} end
  drop(number) -- a server that evicts keys has taken it
  make_again(number)
end
local failure = redis.call('HGET', name('state'), 'failure')
if failure then return {'failed', failure, redis.call('HGET', name('state'), 'remedy')} end
local is_lost = is_wanted(number) and number < state.next and not is_claimed(number)
if is_lost and not redis.call('ZSCORE', name('again'), number) then make_again(number) end
return {'wait', last('puts'), redis.call('ZCOUNT', name('alive'), now - 3 * state.lease, '+inf')}
