-- How many are in use at once: a hash of process -> "count:milliseconds until which it counts" for each key. A process that died stops counting.
-- ARGV: the process; for how many milliseconds its count lasts; then three for each key: the limit, how many the process uses, and how many it
-- wants to be allowed, those included.
-- Returns two numbers for each key: how many the process is allowed, and how many the others are.
-- A process that uses more than it was allowed, because it counted by itself for a while, keeps them.
local process, lasts = ARGV[1], tonumber(ARGV[2])
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local answer = {}
for n, key in ipairs(KEYS) do
  local first = 3 * n
  local limit, used, wanted = tonumber(ARGV[first]), tonumber(ARGV[first + 1]), tonumber(ARGV[first + 2])
  local stored = redis.pcall('HGETALL', key)
  if stored.err then -- a key of another type
    redis.call('DEL', key)
    stored = {}
  end
  local others = 0
  for i = 1, #stored, 2 do
    local count, until_ms = string.match(stored[i + 1], '^(%d+):(%d+)$')
    -- If it lasts longer than any can, the clock of Redis was set back.
    if not count or tonumber(until_ms) <= now or tonumber(until_ms) > now + lasts then
      redis.call('HDEL', key, stored[i])
    elseif stored[i] ~= process then
      others = others + tonumber(count)
    end
  end
  local allowed = math.max(used, math.min(wanted, limit - others))
  if allowed > 0 then
    redis.call('HSET', key, process, string.format('%d:%d', allowed, now + lasts))
    redis.call('PEXPIRE', key, lasts)
  else
    redis.call('HDEL', key, process)
  end
  answer[#answer + 1] = allowed
  answer[#answer + 1] = others
end
return answer
