-- Ready batches stay for another while. ARGV: spec_id, first number, how many at once.
-- {'ok', the number to go on from or -1} | {'gone'}
if not load_state() then return {'gone'} end
local numbers = redis.call('ZRANGEBYSCORE', name('ready'), ARGV[2], '+inf', 'LIMIT', 0, ARGV[3])
for _, number in ipairs(numbers) do redis.call('PEXPIRE', payload(number), state.expire) end
if #numbers < tonumber(ARGV[3]) then return {'ok', -1} end
return {'ok', numbers[#numbers] + 1}
