-- Replaces a snapshot by a newer one. See context_snapshots.py for the shape.
-- KEYS: the snapshot. ARGV: version, seconds to keep it, then each field and its value. Answers 1, or 0 when it is no newer.
local held = redis.call('HGET', KEYS[1], 'version')
if held and tonumber(held) >= tonumber(ARGV[1]) then
  return 0
end
redis.call('DEL', KEYS[1])
for at = 3, #ARGV, 2 do
  redis.call('HSET', KEYS[1], ARGV[at], ARGV[at + 1])
end
redis.call('EXPIRE', KEYS[1], ARGV[2])
return 1
