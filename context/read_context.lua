-- Reads the end of a snapshot: block by block from its head down until there is more than fits. See context_snapshots.py for the shape.
--
-- KEYS: the snapshot. ARGV: the room in tokens; the policy may give less; how a snapshot is made that can be read; and how many
-- items are to a block.
-- Answers nil when there is none, it is a tombstone, or it has not all of that; else a list:
--   first, as MessagePack, the fields that are not items, a map; the pinned items' entries, a list; and whether all that is here fits
--   then the blocks, the newest first, each as it is but the oldest, which has its newline and the lines that are needed. To make
--   one text of them here would take as long as all the rest
local key, room, size = KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[3])
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
local first = tonumber(fields.first)
local block, oldest = math.floor(fields.depth / size), math.floor(math.max(first, above + 1) / size)
local left, tokens, blocks = tonumber(fields.count), 0, {}

while block >= oldest and left > 0 and tokens <= room do
  local text = redis.call('HGET', key, 'i:' .. fields.branch .. ':' .. block)
  if text then
    local items, sum = string.match(text, '^(%d+) (%d+)\n')
    left, tokens = left - items, tokens + sum
    blocks[#blocks + 1] = text
  end
  block = block - 1
end

-- Of the oldest no more than one item that does not fit, and nothing that the summary stands for: its items may be large.
local text = blocks[#blocks]
if text then
  local at = string.find(text, '\n', 1, true) + 1
  while true do
    local size, deep = string.match(text, '^{"tokens":(%d+),"depth":(%d+)', at)
    if not size or (tonumber(deep) > above and tokens - size <= room) then
      break
    end
    tokens, at = tokens - size, string.find(text, '\n', at, true) + 1
  end
  blocks[#blocks] = string.sub(text, at - 1)
end

-- Where all of it fits, it has to be all there is: what lies before is for the log.
if tokens <= room and first > above + 1 then
  return false
end
fields.pins, fields.count = nil, nil
return {cmsgpack.pack({fields, pins, tokens <= room}), unpack(blocks)}
