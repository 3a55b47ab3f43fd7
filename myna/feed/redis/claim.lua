-- A producer asks for a number to make. ARGV: spec_id, producer.
-- {'claim', number} | {'wait', id to read `frees` from, ms until a lease runs out or -1} | {'done'} | {'gone'}
if not load_state() then return {'gone'} end
local producer = ARGV[2]
seen(producer)
if state.done == 1 then return {'done'} end

-- Its answer was lost on the way: the same number again.
local held = held_by(producer)
if held then
  lease(held)
  return {'claim', held}
end

end_old_leases()

local function lowest()
  local again
  while true do
    again = tonumber(redis.call('ZRANGE', name('again'), 0, 0)[1])
    if not again or (is_wanted(again) and not is_ready(again)) then break end
    redis.call('ZREM', name('again'), again)
  end
  local next = state.next
  while next < state.total and (not is_wanted(next) or is_ready(next) or is_claimed(next)) do next = next + 1 end
  local number = again and math.min(again, next) or next
  if number == next then next = next + 1 end
  set('next', math.min(next, state.total))
  if number < state.total then return number end
end

local number
if state.full == 1 then number = starving() else number = lowest() end
if not number then return {'wait', last('frees'), until_next_lease()} end
claim(number, producer)
return {'claim', number}
