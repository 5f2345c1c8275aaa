-- Renews a lock or gives it back, if it is still the caller's.
--
-- KEYS: the lock, and what vanishes with it when it is given back. ARGV: 1 what it says while it is the caller's,
-- 2 how many milliseconds more, 0 to give it back. Answer: 1 if it was the caller's.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
if tonumber(ARGV[2]) > 0 then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
else
  redis.call('DEL', unpack(KEYS))
end
return 1
