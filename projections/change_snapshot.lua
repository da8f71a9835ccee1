-- Carries a snapshot forward by what a batch of events changed in it. See context_snapshots.py for the shape.
--
-- KEYS: the snapshot. ARGV: one MessagePack map:
--   before, after      the conversation's version before the batch and after it
--   branch             of the items that came, absent when none did
--   fields             fields to set, a map
--   gone               names of fields to delete, a list
--   items              items that came, oldest first: a list of names and values by turns
--   most_items, most_bytes, seconds    how many, how large and how long to keep
-- Answers 1 done, 0 nothing to do (as new already, or deleted), -1 when the batch does not continue what is here, or takes a pinned
-- item from it.
local key, change = KEYS[1], cmsgpack.unpack(ARGV[1])
local held = redis.call('HMGET', key, 'version', 'deleted', 'branch', 'first', 'count', 'bytes', 'made', 'heavy')
local version = tonumber(held[1] or 0)

if held[2] or version >= change.after then
  return 0
end
if version ~= change.before or (held[1] and held[7] ~= change.fields.made) or (change.branch and held[3] and tonumber(held[3]) ~= change.branch) then
  return -1
end
for _, name in ipairs(change.gone) do
  if string.sub(name, 1, 4) == 'pin:' and (held[8] or redis.call('HEXISTS', key, name) == 1) then
    return -1
  end
end

local first, count, bytes = tonumber(change.fields.first or held[4] or 1), tonumber(held[5] or 0), tonumber(held[6] or 0)

local function drop(name)
  local length = redis.call('HSTRLEN', key, name)
  if redis.call('HDEL', key, name) == 1 and string.sub(name, 1, 2) == 'i:' then
    count = count - 1
    bytes = bytes - length
  end
end

for name, value in pairs(change.fields) do
  redis.call('HSET', key, name, value)
end
for _, name in ipairs(change.gone) do
  drop(name)
end
for at = 1, #change.items, 2 do
  redis.call('HSET', key, change.items[at], change.items[at + 1])
  count = count + 1
  bytes = bytes + #change.items[at + 1]
end

local path = redis.call('HMGET', key, 'branch', 'depth')
while (count > change.most_items or bytes > change.most_bytes) and first <= tonumber(path[2]) do
  drop('i:' .. path[1] .. ':' .. first)
  first = first + 1
end

redis.call('HSET', key, 'version', change.after, 'first', first, 'count', count, 'bytes', bytes)
redis.call('EXPIRE', key, change.seconds)
return 1
