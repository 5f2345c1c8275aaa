-- Adds records to lanes and answers what each held before. Adding twice adds once, in any order, from any process.
--
-- KEYS: n lanes; where they are tiled, then the n lists of ids folded last ("rings").
-- ARGV: 1 n, 2 time to live in ms, 3 bytes of a record, 4 bytes of its id, 5 the header of an empty lane,
--       6 the load's mark (4 bytes; folded tiles with another mark are dropped, for the load brings them again) or '',
--       7 '' to answer lanes as they are, else answer only those that get longer than so many bytes,
--       8 '1' to leave out records older than the ids that are remembered, 9 n strings of records.
-- Answer: n lanes (false for one not asked for), then a list of the lanes (from 1) that held some of the records.
local n, ttl, width, id = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local empty, mark, least, careful = ARGV[5], ARGV[6], tonumber(ARGV[7]), ARGV[8] == '1'
local sub, find, call = string.sub, string.find, redis.call
local head = #empty
local WHOLE = 4096
local FEW = 64 -- records, each of which is searched for; of more a table is made, or the time would be their square

-- how many bytes of a lane come before its records
local function before(held)
  local raw = head
  for at = 13, head, 4 do
    raw = raw + struct.unpack('<I4', held, at)
  end
  return raw
end

-- the ids in a lane and its ring, without those older than all new records; nil if there are none
local function ids_in(held, ring, new)
  local unpack, oldest, known = struct.unpack, math.huge, {}
  for at = id - 7, #new, width do
    local time = unpack('<i8', new, at)
    if time < oldest then
      oldest = time
    end
  end
  for at = before(held) + 1, #held, width do
    if unpack('<i8', held, at + id - 8) >= oldest then
      known[sub(held, at, at + id - 1)] = true
    end
  end
  for at = 1, ring and #ring or 0, id do
    if unpack('<i8', ring, at + id - 8) >= oldest then
      known[sub(ring, at, at + id - 1)] = true
    end
  end
  return next(known) and known
end

local answer, repeated = {}, {}
for i = 1, n do
  local key, new, rewrite = KEYS[i], ARGV[8 + i], false
  local held, ring, since = call('GET', key), false, nil
  if held and head > 0 and sub(held, 1, head) ~= empty then
    if mark ~= '' and sub(held, 1, 4) ~= mark then
      held, rewrite = empty .. sub(held, before(held) + 1), true
      call('DEL', KEYS[n + i])
    else
      ring = call('GET', KEYS[n + i])
      if careful and sub(held, 5, 12) ~= string.rep('\0', 8) then
        since = struct.unpack('<i8', held, 5)
      end
    end
  end
  if new ~= '' and held then
    local many, kept, from = #new > FEW * width, {}, 1
    local known = many and ids_in(held, ring, new)
    local looked_at = (many and not known and not since) and 0 or #new
    for at = 1, looked_at, width do
      local name = sub(new, at, at + id - 1)
      local is_known
      if many then
        is_known = known and known[name]
      else
        is_known = find(held, name, 1, true) or (ring and find(ring, name, 1, true))
      end
      if is_known or (since and struct.unpack('<i8', new, at + id - 8) <= since) then
        kept[#kept + 1] = sub(new, from, at - 1)
        from = at + width
      end
    end
    if from > 1 then
      repeated[#repeated + 1] = i
      new = table.concat(kept) .. sub(new, from)
    end
  end
  if new ~= '' or rewrite then
    if not held then
      call('SET', key, empty .. new, 'PX', ttl)
    else
      local left = call('PTTL', key)
      if left < ttl then
        left = ttl
      end
      if rewrite or #held < WHOLE then
        -- not APPEND, which takes twice the memory that it needs
        call('SET', key, held .. new, 'PX', left)
      else
        call('APPEND', key, new)
        call('PEXPIRE', key, left)
      end
    end
  end
  held = held or ''
  answer[i] = (not least or #held + #new > least) and held
end
answer[n + 1] = repeated
return answer
