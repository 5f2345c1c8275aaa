-- Sets a mark that still says what is expected. KEYS: the mark. ARGV: 1 what is expected, 2 what it shall say.
-- Answer: 1 if it says so now.
local mark = redis.call('GET', KEYS[1])
if mark == ARGV[1] then
  redis.call('SET', KEYS[1], ARGV[2])
end
return (mark == ARGV[1] or mark == ARGV[2]) and 1 or 0
