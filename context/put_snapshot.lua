-- Writes a snapshot unless there is one of the same version or a higher one, made from the same incarnation of the log. Versions of
-- different incarnations are not compared: the log may have moved back in between. Shape of a snapshot: snapshots.py.
-- KEYS: the snapshot. ARGV: one MessagePack map: version, seconds until it expires, and fields, a map.
-- Returns 1 if it was written, else 0. A key of another type, or with a version that is no number, counts as no snapshot.
local key, snapshot = KEYS[1], cmsgpack.unpack(ARGV[1])
local current = redis.pcall('HMGET', key, 'version', 'made', 'deleted', 'incarnation')
local version = tonumber(current[1] or 0) or 0
-- A snapshot of another format is replaced even by one of the same version.
local readable = current[3] or current[2] == snapshot.fields.made
if current[4] == snapshot.fields.incarnation
    and (version > snapshot.version or (version == snapshot.version and readable)) then
  return 0
end
-- Redis checks its memory limit only before a script's first write, and allows DEL even when the memory is full. So HSET comes first: then the
-- script fails before it changes anything.
if not current.err then
  redis.call('HSET', key, 'version', version)
end
redis.call('DEL', key)
for name, value in pairs(snapshot.fields) do
  redis.call('HSET', key, name, value)
end
redis.call('EXPIRE', key, snapshot.seconds)
return 1
