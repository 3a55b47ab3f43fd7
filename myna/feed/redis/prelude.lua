-- Every script begins with this. KEYS[1]: prefix of the run's keys; ARGV[1]: the spec_id the caller works for.
--
-- A number goes: nobody's -> claimed (claims, owners, held) -> reserved (its bytes are charged) -> ready (its payload
-- is there) -> released. Whatever ends early comes back through `again`.
local prefix, spec_id = KEYS[1], ARGV[1]

redis.replicate_commands() -- we read the clock and then write; before Redis 7 that had to be announced
redis.call('DEL', prefix .. 'nothing') -- a first write that needs no memory: at maxmemory the rest is let through

local FIELDS = {'start', 'next', 'total', 'world', 'used', 'room', 'largest', 'lease', 'expire', 'full', 'hungry',
  'done', 'limit', 'overhead', 'shared'}
local SUFFIXES = {'spec', 'state', 'claims', 'owners', 'held', 'reserved', 'ready', 'again', 'puts', 'frees', 'alive',
  'producers', 'fails'}
local PAGE, MIB = 4096, 1048576
local BASE, PER_CLIENT = 2 * MIB, 65536 -- bytes of an empty server with our scripts, of a connection

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000) -- ms
local state = {}

local function name(suffix) return prefix .. suffix end

local function payload(number) return prefix .. 'b:' .. spec_id .. ':' .. number end

-- False when the run is not there, or is another one than the caller's.
local function load_state()
  local values = redis.call('HMGET', name('state'), 'spec_id', unpack(FIELDS))
  if values[1] ~= spec_id then return false end
  for i, field in ipairs(FIELDS) do state[field] = tonumber(values[i + 1]) or 0 end
  return true
end

local function set(field, value)
  state[field] = value
  redis.call('HSET', name('state'), field, value)
end

-- Keys vanish when their last member goes, and their expiry with them.
local function keep(suffix) redis.call('PEXPIRE', name(suffix), state.expire) end

local function keep_all()
  for _, suffix in ipairs(SUFFIXES) do keep(suffix) end
end

local function wake(stream)
  redis.call('XADD', name(stream), 'MAXLEN', '~', 8, '*', 'at', now)
  keep(stream)
end

-- Where a caller that was refused reads on from, so that it misses no later wake-up.
local function last(stream)
  local entry = redis.call('XREVRANGE', name(stream), '+', '-', 'COUNT', 1)[1]
  return entry and entry[1] or '0-0'
end

-- What the server allocates for so many bytes: jemalloc has four sizes a doubling, other allocators whole pages.
local function allocated(bytes)
  local spacing = PAGE
  while spacing * 8 < bytes + 64 do spacing = spacing * 2 end
  return math.ceil((bytes + 64) / spacing) * spacing
end

-- A stored batch: its payload, its key, and its entries here.
local function stored_cost(size) return allocated(size) + 1024 end

-- While it is received, the server makes room for a second one of its size; before Redis 7 its buffer also grew ahead.
local function receiving_cost(size)
  local bytes = allocated(size)
  return stored_cost(size) + bytes + math.min(bytes, MIB + 16 * PAGE)
end

-- Bytes for batches: of our room, each rank may have one reply on its way.
local function budget() return state.room - state.world * allocated(state.largest) end

-- From the high mark on nothing is let in, until usage is below the low mark. The lane above is for needed numbers.
local function high_mark() return budget() - receiving_cost(state.largest) end

-- Below the low mark any batch finds room.
local function low_mark()
  return math.max(0, math.min(math.floor(high_mark() * 7 / 8), high_mark() - receiving_cost(state.largest)))
end

-- The lowest number that a rank has not released.
local function need(rank)
  local number = redis.call('HGET', name('state'), 'need:' .. rank)
  return tonumber(number) or state.start + (rank - state.start) % state.world
end

local function is_wanted(number) return number < state.total and number >= need(number % state.world) end

local function is_needed(number) return number < state.total and number == need(number % state.world) end

local function is_ready(number) return redis.call('ZSCORE', name('ready'), number) ~= false end

local function is_claimed(number) return redis.call('ZSCORE', name('claims'), number) ~= false end

-- Bytes have come free, or there is more room.
local function settle()
  local low = state.used <= low_mark()
  if state.hungry == 1 or (state.full == 1 and low) then
    set('hungry', 0)
    if low then set('full', 0) end
    wake('frees')
  end
end

-- Charge a number with so many bytes instead of what it was charged with; 0 gives them back.
local function charge(number, bytes)
  local before = tonumber(redis.call('HGET', name('reserved'), number)) or 0
  if bytes == before then return end
  if bytes == 0 then
    redis.call('HDEL', name('reserved'), number)
  else
    redis.call('HSET', name('reserved'), number, bytes)
    keep('reserved')
  end
  set('used', state.used - before + bytes)
  if bytes < before then settle() end
end

-- Forget a ready batch.
local function drop(number)
  redis.call('DEL', payload(number))
  redis.call('ZREM', name('ready'), number)
  charge(number, 0)
end

-- To be made once more.
local function make_again(number)
  redis.call('ZADD', name('again'), number, number)
  keep('again')
  wake('frees')
end

local function end_claim(number)
  local owner = redis.call('HGET', name('owners'), number)
  redis.call('ZREM', name('claims'), number)
  redis.call('HDEL', name('owners'), number)
  if owner and redis.call('HGET', name('held'), owner) == tostring(number) then
    redis.call('HDEL', name('held'), owner)
  end
end

-- A claim ends without a batch.
local function abandon(number)
  end_claim(number)
  charge(number, 0)
  if is_wanted(number) then make_again(number) end
end

local function lease(number)
  redis.call('ZADD', name('claims'), now + state.lease, number)
  keep('claims')
end

-- The number that a producer holds, if any.
local function held_by(producer)
  local number = tonumber(redis.call('HGET', name('held'), producer))
  if number and redis.call('HGET', name('owners'), number) == producer then return number end
end

local function claim(number, producer)
  local other = held_by(producer)
  if other and other ~= number then abandon(other) end
  redis.call('ZREM', name('again'), number)
  lease(number)
  redis.call('HSET', name('owners'), number, producer)
  keep('owners')
  redis.call('HSET', name('held'), producer, number)
  keep('held')
end

local function end_old_leases()
  for _, number in ipairs(redis.call('ZRANGEBYSCORE', name('claims'), '-inf', now)) do abandon(tonumber(number)) end
end

-- Milliseconds until the next lease runs out; -1 when there is none.
local function until_next_lease()
  local first = redis.call('ZRANGE', name('claims'), 0, 0, 'WITHSCORES')
  return first[2] and math.max(1, math.ceil(first[2] - now)) or -1
end

-- A number that a rank needs next and nobody makes.
local function starving()
  for rank = 0, state.world - 1 do
    local number = need(rank)
    if number < state.total and not is_ready(number) and not is_claimed(number) then return number end
  end
end

-- The trainer ends with these words.
local function give_up(problem, remedy)
  redis.call('HSET', name('state'), 'failure', problem, 'remedy', remedy)
  wake('puts')
end

local function seen(producer)
  redis.call('ZADD', name('alive'), now, producer)
  keep('alive')
end

-- Another trainer has taken the run over.
local function is_fenced(token)
  local holder = redis.call('HGET', name('trainer'), 'token')
  return holder and holder ~= token
end

-- Room for batches in this server's memory. On a server of our own all that it uses counts, on a shared one only what we
-- use; its own limit holds on either.
local function measure()
  local memory, clients = redis.pcall('INFO', 'memory'), redis.pcall('INFO', 'clients')
  local room = state.limit - BASE
  if type(memory) == 'string' and type(clients) == 'string' then
    local in_use = tonumber(memory:match('used_memory:(%d+)'))
    local maximum = tonumber(memory:match('maxmemory:(%d+)')) or 0
    local buffers = tonumber(memory:match('mem_clients_normal:(%d+)')) or 0
    local connections = tonumber(clients:match('connected_clients:(%d+)')) or 0
    if state.shared == 0 then
      local seen_now = in_use - buffers - state.used + connections * PER_CLIENT
      set('overhead', math.max(BASE, seen_now, math.floor(0.95 * state.overhead))) -- one odd look fades
      room = state.limit - state.overhead
    end
    if maximum > 0 then room = math.min(room, maximum - math.max(0, in_use - state.used) - MIB) end
  end
  set('room', room)
  settle()
end

