-- Sets a mark that still says what is expected. KEYS: the mark. ARGV: 1 what is expected, 2 what it shall say.
-- Answer: 1 if state is complete by it now, in this life of the server or in one before.
local mark = redis.call('GET', KEYS[1])
if mark == ARGV[1] then
  redis.call('SET', KEYS[1], ARGV[2])
  return 1
end
return (mark and string.sub(mark, 1, 6) == 'ready:') and 1 or 0
