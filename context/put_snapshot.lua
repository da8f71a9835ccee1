-- Replaces a snapshot by a newer one. See context_snapshots.py for the shape.
-- KEYS: the snapshot. ARGV: one MessagePack map: version, seconds to keep it, and fields, a map.
-- Answers 1, or 0 when it is no newer than what is here.
local key, snapshot = KEYS[1], cmsgpack.unpack(ARGV[1])
local held = redis.call('HMGET', key, 'version', 'made', 'deleted')
local version = tonumber(held[1] or 0)
-- One of the same version that other code made is as good as none.
local same = held[3] or held[2] == snapshot.fields.made
if version > snapshot.version or (version == snapshot.version and same) then
  return 0
end
redis.call('DEL', key)
for name, value in pairs(snapshot.fields) do
  redis.call('HSET', key, name, value)
end
redis.call('EXPIRE', key, snapshot.seconds)
return 1
