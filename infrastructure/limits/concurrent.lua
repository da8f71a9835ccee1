-- Counts the places that are in use at once. Each key is a hash of process -> "count:milliseconds until which it counts". The count of a
-- process that died expires.
-- ARGV: the process; for how many milliseconds its count lasts; then three numbers for each key: the limit, how many places the process uses,
-- and how many it wants, including those that it uses.
-- Returns two numbers for each key: how many places the process may use, and how many the other processes may use.
-- A process that counted by itself for a while may use more places than it was allowed. It keeps them.
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
    -- No count lasts longer than `lasts`. If one does, the clock of Redis was set back.
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
