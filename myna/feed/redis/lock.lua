-- A trainer wants the run. ARGV: spec_id, token, lease ms, host, machine, pid, when its process began, a dead holder's token.
-- {'ok', the spec_id that is published or ''} | {'held', token, host, machine, pid, began, since ms, ms left}
local holder = redis.call('HMGET', name('trainer'), 'token', 'host', 'machine', 'pid', 'began', 'since')
if holder[1] and holder[1] ~= ARGV[2] and holder[1] ~= ARGV[8] then
  return {'held', holder[1], holder[2], holder[3], holder[4], holder[5], holder[6], redis.call('PTTL', name('trainer'))}
end
if holder[1] ~= ARGV[2] then
  redis.call('DEL', name('trainer'))
  redis.call('HSET', name('trainer'), 'token', ARGV[2], 'host', ARGV[4], 'machine', ARGV[5], 'pid', ARGV[6], 'began',
    ARGV[7], 'since', now)
end
redis.call('PEXPIRE', name('trainer'), ARGV[3])
return {'ok', redis.call('HGET', name('state'), 'spec_id') or ''}
