-- A producer cannot make the batch it holds. ARGV: spec_id, producer, number, why, tries that are enough.
-- {'ok', tries so far} | {'gone'}
if not load_state() then return {'gone'} end
local number = tonumber(ARGV[3])
if redis.call('HGET', name('owners'), number) ~= ARGV[2] then return {'ok', 0} end
abandon(number)
local tries = redis.call('HINCRBY', name('fails'), number, 1)
keep('fails')
if tries >= tonumber(ARGV[5]) then
  give_up(string.format('batch %d could not be made in %d tries: %s', number, tries, ARGV[4]),
    'Mend what the message names, then resume the run.')
end
return {'ok', tries}
