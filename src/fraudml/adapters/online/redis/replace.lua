-- Puts shorter bytes in place of those a lane begins with, if they are still the same. What was added behind stays.
--
-- KEYS: the lane; of a tiled one, then its ring. ARGV: 1 how many bytes, 2 their SHA-1 in hexadecimal digits, 3 the new
-- ones, 4 time to live in ms, 5 ids to put into the ring, 6 bytes of the ring at most, 7 bytes of an id.
-- Answer: 1 if it was done.
local size = tonumber(ARGV[1])
local held = redis.call('GET', KEYS[1])
if not held or #held < size or redis.sha1hex(string.sub(held, 1, size)) ~= ARGV[2] then
  return 0
end
local left, ttl = redis.call('PTTL', KEYS[1]), tonumber(ARGV[4])
if left < ttl then
  left = ttl
end
local new = ARGV[3]
if ARGV[5] ~= '' then
  local ring = (redis.call('GET', KEYS[2]) or '') .. ARGV[5]
  local over = #ring - tonumber(ARGV[6])
  if over > 0 then
    -- ids up to the latest time of those dropped are not known any more: the header says so
    local since, width = struct.unpack('<i8', new, 5), tonumber(ARGV[7])
    for at = width - 7, over, width do
      since = math.max(since, (struct.unpack('<i8', ring, at)))
    end
    new = string.sub(new, 1, 4) .. struct.pack('<i8', since) .. string.sub(new, 13)
    ring = string.sub(ring, over + 1)
  end
  redis.call('SET', KEYS[2], ring, 'PX', left)
end
redis.call('SET', KEYS[1], new .. string.sub(held, size + 1), 'PX', left)
return 1
