-- Reads the end of a snapshot: from its head down until there is one item more than fits. See context_snapshots.py for the shape.
--
-- KEYS: the snapshot. ARGV: the room in tokens; the policy may give less; and how a snapshot is made that can be read.
-- Answers nil when there is none, it is a tombstone, or it has not all of that; else one MessagePack list:
--   the fields that are not items, a map; the pinned items' entries, a list; the depths of items, the newest first, and their
--   entries as one JSON list; whether there are no more of them here.
local AT_ONCE = 64
local key, room = KEYS[1], tonumber(ARGV[1])
local names = {'version', 'instructions', 'policy', 'branch', 'head', 'depth', 'first', 'summary', 'pins', 'count',
  'deleted', 'made', 'heavy'}
local held, fields = redis.call('HMGET', key, unpack(names)), {}
for at, name in ipairs(names) do
  fields[name] = held[at] or nil
end
if not fields.version or fields.deleted or fields.heavy or fields.made ~= ARGV[2] then
  return false
end

local pins = {}
if fields.pins then
  for at, id in ipairs(cjson.decode(fields.pins)) do
    pins[at] = redis.call('HGET', key, 'pin:' .. id)
    if not pins[at] then
      return false
    end
  end
end

room = math.min(room, cjson.decode(fields.policy).budget or room)
local above = fields.summary and cjson.decode(fields.summary).depth or 0
local last = math.max(tonumber(fields.first), above + 1)
local left, tokens, depths, entries, depth = tonumber(fields.count), 0, {}, {}, tonumber(fields.depth)

while depth >= last and left > 0 and tokens <= room do
  local wanted = {}
  for below = depth, math.max(last, depth - AT_ONCE + 1), -1 do
    wanted[#wanted + 1] = 'i:' .. fields.branch .. ':' .. below
  end
  for _, entry in ipairs(redis.call('HMGET', key, unpack(wanted))) do
    if entry and tokens <= room then
      depths[#depths + 1] = depth
      entries[#entries + 1] = entry
      tokens = tokens + tonumber(string.match(entry, '^{"tokens":(%d+)'))
      left = left - 1
    end
    if tokens <= room then
      depth = depth - 1
    end
  end
end

fields.pins, fields.count = nil, nil
-- Where the last of them is already more than fits, nobody knows whether others lie before it: so says the log, too.
local reached = tokens <= room and (depth < last or left == 0)
if tokens <= room and not (reached and tonumber(fields.first) <= above + 1) then
  return false
end
return cmsgpack.pack({fields, pins, depths, '[' .. table.concat(entries, ',') .. ']', reached})
