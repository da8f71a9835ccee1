-- Writes a snapshot: all of it, or what some events add to it. Shape of a snapshot: snapshots.py.
--
-- KEYS: the hash and the list. ARGV:
--   1 before       the version that the events follow; -1: all of the snapshot is replaced
--   2 - 5          version, incarnation and format that the snapshot then has; branch of the new elements, empty if there are none
--   6 seconds      until it expires
--   7 - 9          bounds: elements and bytes of the list, fields of the hash
--   10 count       of the values for the hash, which follow: names and values in turn. The rest are the new elements of the list
-- Returns 1 if it was written; 0 if the stored snapshot is as new, or a tombstone; -1 if the events cannot be added to what is stored.
-- A replaced snapshot may be of any type and content. Versions of different incarnations are not compared: the log may have moved back in
-- between. Everything is read and checked before anything is written.
local hash, list, before, version, incarnation, format = KEYS[1], KEYS[2], tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], ARGV[4]
local stored = redis.pcall('HMGET', hash, 'version', 'incarnation', 'format', 'deleted', 'branch', 'depth', 'first', 'bytes')
local is_hash, exists, stored_version, deleted = not stored.err, stored[1], tonumber(stored[1] or 0) or 0, stored[4]
local bytes = 0

if before < 0 then
  local is_readable = deleted or stored[3] == format
  if stored[2] == incarnation and (stored_version > version or (stored_version == version and is_readable)) then
    return 0
  end
  -- Redis checks its memory limit only before a script's first write, and allows DEL even when the memory is full. So HSET comes first: then
  -- the script fails before it changes anything.
  if is_hash then
    redis.call('HSET', hash, 'version', stored_version)
  end
  redis.call('DEL', hash, list)
else
  if exists and stored[2] ~= incarnation then
    return -1
  end
  if deleted or stored_version >= version then
    return 0
  end
  local length = 0
  if exists then
    local depth, first = tonumber(stored[6]), tonumber(stored[7])
    bytes = tonumber(stored[8])
    if stored[3] ~= format or not (depth and first and bytes) or (ARGV[5] ~= '' and ARGV[5] ~= stored[5])
        or redis.call('HLEN', hash) > tonumber(ARGV[9]) then
      return -1
    end
    length = depth - first + 1
  end
  if not is_hash or stored_version ~= before or redis.pcall('LLEN', list) ~= length then
    return -1
  end
end

local elements = 11 + tonumber(ARGV[10])
redis.call('HSET', hash, unpack(ARGV, 11, elements - 1))
for index = elements, #ARGV, 1000 do
  redis.call('RPUSH', list, unpack(ARGV, index, math.min(index + 999, #ARGV)))
end
local depth = redis.call('HGET', hash, 'depth')
if depth then
  for index = elements, #ARGV do
    bytes = bytes + #ARGV[index]
  end
  local length = redis.call('LLEN', list)
  while length > tonumber(ARGV[7]) or (length > 0 and bytes > tonumber(ARGV[8])) do
    bytes, length = bytes - #redis.call('LPOP', list), length - 1
  end
  redis.call('HSET', hash, 'first', depth - length + 1, 'bytes', bytes)
end
redis.call('EXPIRE', hash, ARGV[6])
redis.call('EXPIRE', list, ARGV[6])
return 1
