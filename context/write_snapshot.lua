-- Writes a snapshot: all of it, or what some events add to it. Shape of a snapshot: snapshots.py.
--
-- KEYS: the hash and the list. ARGV:
--   1 before       the version that the events follow; -1: all of the snapshot is replaced
--   2 - 5          version, incarnation and format that the snapshot then has; branch of the new elements, empty if there are none
--   6 keep         the depth up to which elements stay, before the new ones are added; empty: all stay. If it is given, the fields `request:…` do not stay
--   7 seconds      until it expires
--   8 - 10         bounds: elements and bytes of the list, fields of the hash
--   11 count       of the values for the hash, which follow: names and values in turn. The rest are the new elements of the list
-- Returns 1 if it was written; 0 if the stored snapshot is newer, or as new and of this format, or, for added events, as new or a tombstone;
-- -1 if the events cannot be added to what is stored.
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
        or redis.call('HLEN', hash) > tonumber(ARGV[10]) then
      return -1
    end
    length = depth - first + 1
  end
  if not is_hash or stored_version ~= before or redis.pcall('LLEN', list) ~= length then
    return -1
  end
  if ARGV[6] ~= '' then
    local removed = exists and tonumber(stored[6]) - tonumber(ARGV[6])
    if not removed or removed < 0 or removed > length then
      return -1
    end
    redis.call('HSET', hash, 'version', stored_version)
    for _, field in ipairs(redis.call('HKEYS', hash)) do
      if string.sub(field, 1, 8) == 'request:' then
        redis.call('HDEL', hash, field)
      end
    end
    for _, element in ipairs(redis.call('LRANGE', list, length - removed, -1)) do
      bytes = bytes - #element
    end
    redis.call('LTRIM', list, 0, -removed - 1)
  end
end

local elements = 12 + tonumber(ARGV[11])
redis.call('HSET', hash, unpack(ARGV, 12, elements - 1))
for index = elements, #ARGV, 1000 do
  redis.call('RPUSH', list, unpack(ARGV, index, math.min(index + 999, #ARGV)))
end
local depth = redis.call('HGET', hash, 'depth')
if depth then
  for index = elements, #ARGV do
    bytes = bytes + #ARGV[index]
  end
  local length = redis.call('LLEN', list)
  while length > tonumber(ARGV[8]) or (length > 0 and bytes > tonumber(ARGV[9])) do
    bytes, length = bytes - #redis.call('LPOP', list), length - 1
  end
  redis.call('HSET', hash, 'first', depth - length + 1, 'bytes', bytes)
end
redis.call('EXPIRE', hash, ARGV[7])
redis.call('EXPIRE', list, ARGV[7])
return 1
