-- Carries a snapshot forward by what a batch of events changed in it. See context_snapshots.py for the shape.
--
-- KEYS: the snapshot.
-- ARGV: 1 the version before the batch, 2 the version after it, 3 the branch of its items ('' when it has none),
--       4 the most items to hold, 5 the most bytes, 6 seconds to keep it,
--       7 how many arguments of fields to set follow (a name and a value each), then how many names to delete follow,
--       each count before its arguments; the rest are items, oldest first (a name and a value each).
-- Answers 1 done, 0 nothing to do (as new already, or deleted), -1 when the batch does not continue what is here.
local key = KEYS[1]
local before, after, branch = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local most_items, most_bytes = tonumber(ARGV[4]), tonumber(ARGV[5])
local held = redis.call('HMGET', key, 'version', 'deleted', 'branch', 'depth', 'first', 'count', 'bytes')
local version = tonumber(held[1] or 0)

if held[2] or version >= after then
  return 0
end
if version ~= before or (branch ~= '' and held[3] and held[3] ~= branch) then
  return -1
end

local first, count, bytes = tonumber(held[5] or 1), tonumber(held[6] or 0), tonumber(held[7] or 0)
local at = 8
local stop = at + tonumber(ARGV[7])
while at < stop do
  redis.call('HSET', key, ARGV[at], ARGV[at + 1])
  at = at + 2
end

stop = at + 1 + tonumber(ARGV[at])
at = at + 1
while at < stop do
  local length = redis.call('HSTRLEN', key, ARGV[at])
  if redis.call('HDEL', key, ARGV[at]) == 1 and string.sub(ARGV[at], 1, 2) == 'i:' then
    count = count - 1
    bytes = bytes - length
  end
  at = at + 1
end

while at < #ARGV do
  redis.call('HSET', key, ARGV[at], ARGV[at + 1])
  count = count + 1
  bytes = bytes + #ARGV[at + 1]
  at = at + 2
end

local path = redis.call('HMGET', key, 'branch', 'depth')
local depth = tonumber(path[2])
while (count > most_items or bytes > most_bytes) and first <= depth do
  local name = 'i:' .. path[1] .. ':' .. first
  local length = redis.call('HSTRLEN', key, name)
  if redis.call('HDEL', key, name) == 1 then
    count = count - 1
    bytes = bytes - length
  end
  first = first + 1
end

redis.call('HSET', key, 'version', after, 'first', first, 'count', count, 'bytes', bytes)
redis.call('EXPIRE', key, ARGV[6])
return 1
