-- Replaces a snapshot by a newer one. See context_snapshots.py for the shape.
-- KEYS: the snapshot. ARGV: one MessagePack map: version, seconds to keep it, and fields, a map.
-- Answers 1, or 0 when it is no newer than what is here.
local key, snapshot = KEYS[1], cmsgpack.unpack(ARGV[1])
local held = redis.call('HGET', key, 'version')
if held and tonumber(held) >= snapshot.version then
  return 0
end
redis.call('DEL', key)
for name, value in pairs(snapshot.fields) do
  redis.call('HSET', key, name, value)
end
redis.call('EXPIRE', key, snapshot.seconds)
return 1
