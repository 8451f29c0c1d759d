-- Put a base before a log, in place of the base that it begins with, if the log still begins as it was read.
--
-- KEYS    the log; what is kept beside it, which is about another beginning then.
-- ARGV    the first element as it was read ('' for no log), 'yes' if that is a base, the base to be put there,
--         seconds until a log that nobody touches is forgotten.
-- Returns 1 if it was done, 0 if the log begins with something else by now.
local log, beside = KEYS[1], KEYS[2]
local beginning, replaces, base, ttl_s = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

if (redis.call('LINDEX', log, 0) or '') ~= beginning then
  return 0
end
if replaces == 'yes' then
  redis.call('LSET', log, 0, base)
else
  redis.call('LPUSH', log, base)
end
redis.call('EXPIRE', log, ttl_s)
redis.call('DEL', beside)
return 1
