-- Reads a snapshot's newest items, block by block from its head down, until there is one more than fits. Shape of a snapshot: snapshots.py.
--
-- KEYS: the snapshot. ARGV: the largest number of tokens, which the policy's budget may lower; the format that can be read; depths per block.
-- Returns nil if there is no readable snapshot, it is a tombstone, it lacks pinned items, it has too few items, or its summary tells
-- of items of other conversations; else a list:
--   first a MessagePack list: the fields that are not items, a map; the JSON of the pinned items, a list; whether all items fit
--   then the blocks, newest first, as stored. Only the oldest is cut: it starts with a newline, and has only the lines that are needed.
--   The blocks are not joined here: that would take as long as the rest of the script
local key, max_tokens, block_depths = KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[3])
local names = {'version', 'instructions', 'policy', 'branch', 'head', 'depth', 'first', 'summary', 'pins', 'count',
  'deleted', 'made', 'heavy', 'chain_hash', 'incarnation', 'fork'}
local values, fields = redis.call('HMGET', key, unpack(names)), {}
for index, name in ipairs(names) do
  fields[name] = values[index] or nil
end
if not fields.version or fields.deleted or fields.heavy or fields.made ~= ARGV[2] then
  return false
end
local summary = fields.summary and cjson.decode(fields.summary)
if summary and (fields.fork or summary.has_copies) then
  return false
end

local pins = {}
if fields.pins then
  for index, id in ipairs(cjson.decode(fields.pins)) do
    pins[index] = redis.call('HGET', key, 'pin:' .. id)
    if not pins[index] then
      return false
    end
  end
end

max_tokens = math.min(max_tokens, cjson.decode(fields.policy).budget or max_tokens)
local summarized = summary and summary.depth or 0
local first = tonumber(fields.first)
local block, oldest = math.floor(fields.depth / block_depths), math.floor(math.max(first, summarized + 1) / block_depths)
local left, tokens, blocks = tonumber(fields.count), 0, {}

while block >= oldest and left > 0 and tokens <= max_tokens do
  local text = redis.call('HGET', key, 'i:' .. fields.branch .. ':' .. block)
  if text then
    local items, sum = string.match(text, '^(%d+) (%d+)\n')
    left, tokens = left - items, tokens + sum
    blocks[#blocks + 1] = text
  end
  block = block - 1
end

-- Drops some items of the oldest block, because they may be large: the summarized items, and those older than the newest item that does not fit.
local text = blocks[#blocks]
if text then
  local start = string.find(text, '\n', 1, true) + 1
  while true do
    local item_tokens, depth = string.match(text, '^{"tokens":(%d+),"depth":(%d+)', start)
    if not item_tokens or (tonumber(depth) > summarized and tokens - item_tokens <= max_tokens) then
      break
    end
    tokens, start = tokens - item_tokens, string.find(text, '\n', start, true) + 1
  end
  blocks[#blocks] = string.sub(text, start - 1)
end

-- If all of these items fit, older ones may fit too. If the snapshot lacks older ones, it cannot be used.
if tokens <= max_tokens and first > summarized + 1 then
  return false
end
fields.pins, fields.count = nil, nil
return {cmsgpack.pack({fields, pins, tokens <= max_tokens}), unpack(blocks)}
