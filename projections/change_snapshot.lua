-- Carries a snapshot forward by what a batch of events changed in it. See context_snapshots.py for the shape.
--
-- KEYS: the snapshot. ARGV: one MessagePack map:
--   before, after      the conversation's version before the batch and after it
--   branch             of the items that came, absent when none did
--   fields             fields to set, a map
--   gone               names of fields to delete, a list
--   retracted          items that went: a list of branches and depths by turns
--   items              items that came, oldest first: a list of depths, tokens and entries by turns
--   block, most_items, most_bytes, seconds    how many to a block, how many in all, how large and how long to keep
-- Answers 1 done, 0 nothing to do (as new already, or deleted), -1 when the batch does not continue what is here, or takes a pinned
-- item from it. All is read before anything is written.
local key, change = KEYS[1], cmsgpack.unpack(ARGV[1])
local held = redis.call('HMGET', key, 'version', 'deleted', 'branch', 'first', 'count', 'bytes', 'made', 'heavy', 'depth')
local version = tonumber(held[1] or 0)

if held[2] or version >= change.after then
  return 0
end
if version ~= change.before or (held[1] and held[7] ~= change.fields.made) or (change.branch and held[3] and tonumber(held[3]) ~= change.branch) then
  return -1
end
for _, name in ipairs(change.gone) do
  if string.sub(name, 1, 4) == 'pin:' and (held[8] or redis.call('HEXISTS', key, name) == 1) then
    return -1
  end
end

local branch, depth = tonumber(change.fields.branch or held[3]), tonumber(change.fields.depth or held[9])
local first, count, bytes = tonumber(change.fields.first or held[4] or 1), tonumber(held[5] or 0), tonumber(held[6] or 0)
local blocks, broken = {}, false

-- The block that has the item of this depth, as it will be.
local function block_of(at)
  local name = 'i:' .. branch .. ':' .. math.floor(at / change.block)
  if not blocks[name] then
    local items, tokens, lines = string.match(redis.call('HGET', key, name) or '0 0\n', '^(%d+) (%d+)\n(.*)$')
    broken = broken or not items
    blocks[name] = {count = tonumber(items or 0), tokens = tonumber(tokens or 0), lines = lines or ''}
  end
  return blocks[name]
end

local function add(at, tokens, entry)
  local block = block_of(at)
  block.count, block.tokens, block.lines = block.count + 1, block.tokens + tokens, block.lines .. entry .. '\n'
  count, bytes = count + 1, bytes + #entry
end

local function drop(at)
  local block, start = block_of(at), 1
  while start <= #block.lines do
    local stop = string.find(block.lines, '\n', start, true) or #block.lines
    local tokens, found = string.match(block.lines, '^{"tokens":(%d+),"depth":(%d+)', start)
    if tonumber(found) == at then
      block.count, block.tokens = block.count - 1, block.tokens - tokens
      block.lines = string.sub(block.lines, 1, start - 1) .. string.sub(block.lines, stop + 1)
      count, bytes = count - 1, bytes - (stop - start)
      return
    end
    start = stop + 1
  end
end

for at = 1, #change.retracted, 2 do
  if change.retracted[at] == branch then
    drop(change.retracted[at + 1])
  end
end
for at = 1, #change.items, 3 do
  add(change.items[at], change.items[at + 1], change.items[at + 2])
end
while (count > change.most_items or bytes > change.most_bytes) and first <= depth do
  drop(first)
  first = first + 1
end
if broken then
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
    redis.call('HDEL', key, name)
  end
end
for _, name in ipairs(change.gone) do
  redis.call('HDEL', key, name)
end
for _, value in ipairs({'version', change.after, 'first', first, 'count', count, 'bytes', bytes}) do
  fields[#fields + 1] = value
end
redis.call('HSET', key, unpack(fields))
redis.call('EXPIRE', key, change.seconds)
return 1
