-- Applies to a snapshot what a batch of events changed in it. Shape: context/snapshots.py.
--
-- KEYS: the snapshot. ARGV: one MessagePack map:
--   before, after      the conversation's version before the batch and after it
--   branch             of the new items; absent if there are none
--   fields             fields to set, a map
--   removed_fields     names of fields to delete, a list
--   retracted          a flat list: branch and depth of each retracted item
--   items              a flat list: depth, tokens and line of each new item, oldest first
--   block_depths, max_items, max_bytes, seconds    depths per block, bounds of the snapshot, seconds until it expires
-- Returns 1 if it was applied; 0 if the snapshot already has this version or a later one, or is a tombstone; -1 if it cannot be applied:
-- the snapshot has another version, format or branch, was made from another incarnation of the log, has a block that cannot be read,
-- a pinned item is removed, or an item that the summary covers is retracted. Everything is read before anything is written.
local key, change = KEYS[1], cmsgpack.unpack(ARGV[1])
local current = redis.call('HMGET', key, 'version', 'deleted', 'branch', 'first', 'count', 'bytes', 'made', 'heavy', 'depth',
  'incarnation', 'summary')
local version = tonumber(current[1] or 0)

if current[1] and current[10] ~= change.fields.incarnation then
  return -1
end
if current[2] or version >= change.after then
  return 0
end
if version ~= change.before or (current[1] and current[7] ~= change.fields.made)
    or (change.branch and current[3] and tonumber(current[3]) ~= change.branch) then
  return -1
end
for _, name in ipairs(change.removed_fields) do
  if string.sub(name, 1, 4) == 'pin:' and (current[8] or redis.call('HEXISTS', key, name) == 1) then
    return -1
  end
end

local summarized = current[11] and cjson.decode(current[11]).depth or 0
for index = 2, #change.retracted, 2 do
  if change.retracted[index] <= summarized then
    return -1
  end
end

local branch, last_depth = tonumber(change.fields.branch or current[3]), tonumber(change.fields.depth or current[9])
local first, count, bytes = tonumber(change.fields.first or current[4] or 1), tonumber(current[5] or 0), tonumber(current[6] or 0)
local blocks, unreadable = {}, false

-- The block that holds this depth, as it will be written.
local function block_of(depth)
  local name = 'i:' .. branch .. ':' .. math.floor(depth / change.block_depths)
  if not blocks[name] then
    local items, tokens, lines = string.match(redis.call('HGET', key, name) or '0 0\n', '^(%d+) (%d+)\n(.*)$')
    unreadable = unreadable or not items
    blocks[name] = {count = tonumber(items or 0), tokens = tonumber(tokens or 0), lines = lines or ''}
  end
  return blocks[name]
end

local function add(depth, tokens, line)
  local block = block_of(depth)
  block.count, block.tokens, block.lines = block.count + 1, block.tokens + tokens, block.lines .. line .. '\n'
  count, bytes = count + 1, bytes + #line
end

local function remove(depth)
  local block, start = block_of(depth), 1
  while start <= #block.lines do
    local stop = string.find(block.lines, '\n', start, true) or #block.lines
    local tokens, line_depth = string.match(block.lines, '^{"tokens":(%d+),"depth":(%d+)', start)
    if tonumber(line_depth) == depth then
      block.count, block.tokens = block.count - 1, block.tokens - tokens
      block.lines = string.sub(block.lines, 1, start - 1) .. string.sub(block.lines, stop + 1)
      count, bytes = count - 1, bytes - (stop - start)
      return
    end
    start = stop + 1
  end
end

for index = 1, #change.retracted, 2 do
  if change.retracted[index] == branch then
    remove(change.retracted[index + 1])
  end
end
for index = 1, #change.items, 3 do
  add(change.items[index], change.items[index + 1], change.items[index + 2])
end
while (count > change.max_items or bytes > change.max_bytes) and first <= last_depth do
  remove(first)
  first = first + 1
end
if unreadable then
  return -1
end

local fields = {}
for name, value in pairs(change.fields) do
  fields[#fields + 1] = name
  fields[#fields + 1] = value
end
for name, block in pairs(blocks) do
  if block.count > 0 then
    fields[#fields + 1] = name
    fields[#fields + 1] = block.count .. ' ' .. block.tokens .. '\n' .. block.lines
  else
    change.removed_fields[#change.removed_fields + 1] = name
  end
end
for _, value in ipairs({'version', change.after, 'first', first, 'count', count, 'bytes', bytes}) do
  fields[#fields + 1] = value
end
-- Redis checks its memory limit only before a script's first write, and allows HDEL even when the memory is full. So HSET comes first: then the
-- script fails before it changes anything.
redis.call('HSET', key, unpack(fields))
for _, name in ipairs(change.removed_fields) do
  redis.call('HDEL', key, name)
end
redis.call('EXPIRE', key, change.seconds)
return 1
