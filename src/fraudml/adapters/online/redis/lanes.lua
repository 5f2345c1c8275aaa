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

local answer, repeated = {}, {}
for i = 1, n do
  local key, new, rewrite = KEYS[i], ARGV[8 + i], false
  local held, ring, since = call('GET', key), false, nil
  if held and head > 0 and sub(held, 1, head) ~= empty then
    if mark ~= '' and sub(held, 1, 4) ~= mark then
      local raw = head
      for at = 13, head, 4 do
        raw = raw + struct.unpack('<I4', held, at)
      end
      held, rewrite = empty .. sub(held, raw + 1), true
      call('DEL', KEYS[n + i])
    else
      ring = call('GET', KEYS[n + i])
      if careful and sub(held, 5, 12) ~= string.rep('\0', 8) then
        since = struct.unpack('<i8', held, 5)
      end
    end
  end
  if new ~= '' and held then
    local kept = {}
    for at = 1, #new, width do
      local known = find(held, sub(new, at, at + id - 1), 1, true)
        or (ring and find(ring, sub(new, at, at + id - 1), 1, true))
        or (since and struct.unpack('<i8', new, at + id - 8) <= since)
      if not known then
        kept[#kept + 1] = sub(new, at, at + width - 1)
      end
    end
    if #kept * width < #new then
      repeated[#repeated + 1] = i
      new = table.concat(kept)
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
