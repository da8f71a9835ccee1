-- Counts how much was used in the last minute. Each key is a hash of second -> amount. `window.py` does the same for one process.
-- ARGV, six numbers for each key: the limit; how much to take (at most as much as fits is taken); how much to add, even if it does not fit;
-- how much of an earlier take to give back; the second of that take; how many seconds longer than WINDOW an added amount may count.
-- Returns four numbers for each key: how much was taken; how much more fits (negative: the limit is exceeded by this amount); the current
-- second by the clock of Redis; and after how many seconds something fits (0: now).
local WINDOW = 60
local now = tonumber(redis.call('TIME')[1])
local answer = {}
for n, key in ipairs(KEYS) do
  local first = 6 * n - 5
  local limit, take, add = tonumber(ARGV[first]), tonumber(ARGV[first + 1]), tonumber(ARGV[first + 2])
  local back, taken_at, max_ahead = tonumber(ARGV[first + 3]), tonumber(ARGV[first + 4]), tonumber(ARGV[first + 5])
  local stored = redis.pcall('HGETALL', key)
  if stored.err then -- a key of another type
    redis.call('DEL', key)
    stored = {}
  end
  local left, seconds, amounts, newest = limit, {}, {}, now
  for i = 1, #stored, 2 do
    local second, amount = tonumber(stored[i]), tonumber(stored[i + 1])
    local counts = second and amount and amount % 1 == 0 and now - second <= WINDOW
    -- No amount is stored at a later second than this. If one is, the clock of Redis was set back.
    if not counts or second - now > max_ahead then
      redis.call('HDEL', key, stored[i])
    else
      left = left - amount
      seconds[#seconds + 1] = second
      amounts[second] = amount
      newest = math.max(newest, second)
    end
  end
  if back > 0 and amounts[taken_at] then
    local returned = math.min(back, amounts[taken_at])
    redis.call('HINCRBY', key, taken_at, -returned)
    amounts[taken_at] = amounts[taken_at] - returned
    left = left + returned
  end
  local taken = math.max(0, math.min(take, left))
  local function count(second, amount)
    redis.call('HINCRBY', key, second, amount)
    if not amounts[second] then
      seconds[#seconds + 1] = second
    end
    amounts[second] = (amounts[second] or 0) + amount
    left = left - amount
    newest = math.max(newest, second)
  end
  if taken > 0 then
    count(now, taken)
  end
  if add > 0 and limit > 0 then
    count(now + math.min(max_ahead, math.floor(WINDOW * math.max(0, add - left) / limit)), add)
  end
  redis.call('EXPIRE', key, newest - now + WINDOW + 1)
  local free_in, room = 0, left
  if room <= 0 then
    free_in = WINDOW
    table.sort(seconds)
    for _, second in ipairs(seconds) do
      room = room + amounts[second]
      if room > 0 then
        free_in = second + WINDOW + 1 - now
        break
      end
    end
  end
  answer[#answer + 1] = taken
  answer[#answer + 1] = left
  answer[#answer + 1] = now
  answer[#answer + 1] = free_in
end
return answer
