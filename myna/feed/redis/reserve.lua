-- A producer asks for room before it sends a batch. ARGV: spec_id, producer, number, bytes.
-- {'go'} | {'there'} already | {'unwanted'} | {'lost'} to another | {'yield'}: its claim is now a number the trainer waits
-- for | {'wait', id to read `frees` from, ms until a lease runs out or -1} | {'gone'}
if not load_state() then return {'gone'} end
local producer, number, size = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
seen(producer)
end_old_leases()

local owner = redis.call('HGET', name('owners'), number)
if owner and owner ~= producer then return {'lost'} end
if is_ready(number) or not is_wanted(number) then
  local answer = is_ready(number) and 'there' or 'unwanted'
  if owner then abandon(number) end
  return {answer}
end
if size > state.largest then set('largest', size) end
claim(number, producer) -- or renew it; a lease that ran out unnoticed comes back too

local cost = receiving_cost(size)
charge(number, 0)

local function grant()
  charge(number, cost)
  return {'go'}
end

local function wait()
  return {'wait', last('frees'), until_next_lease()}
end

if is_needed(number) then
  -- Batches far ahead make way: they can be made again, the trainer waits for this one.
  while state.used + cost > budget() do
    local far = tonumber(redis.call('ZREVRANGE', name('ready'), 0, 0)[1])
    if not far or far <= number or is_needed(far) then break end
    drop(far)
    make_again(far)
  end
  if state.used + cost <= budget() then return grant() end
  if redis.call('HLEN', name('reserved')) == redis.call('ZCARD', name('ready')) then -- nothing on its way will come free
    give_up(string.format('batch %d takes %.1f MB of Redis while it arrives; of %.1f MB, %.1f are left for batches', number,
      cost / 1e6, state.limit / 1e6, math.max(0, budget() - state.used) / 1e6),
      'Raise feed.max_memory_gb, or make batches smaller.')
  end
  set('hungry', 1)
  return wait()
end

if state.full == 0 and state.used + cost <= high_mark() then return grant() end
set('full', 1)
local urgent = starving()
if urgent then
  abandon(number)
  claim(urgent, producer)
  return {'yield', urgent}
end
return wait()
