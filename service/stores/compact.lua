-- Put a base in the place of the beginning of a log, if the log still begins that way.
--
-- KEYS    the log and, if what is replaced is to be kept beside it, the list for that: a seed, then chunks.
-- ARGV    how many elements the base stands for, the first of them, the last of them, the base,
--         seconds until a log that nobody touches is forgotten; and, to keep what is replaced,
--         the base that it begins with ('' for none), its entries as a chunk, how many chunks are kept.
-- Returns 1 if it was done, 0 if somebody else did it before.
local log, beside = KEYS[1], KEYS[2]
local elements, first, last, base, ttl_s = tonumber(ARGV[1]), ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local seed, chunk, most = ARGV[6], ARGV[7], tonumber(ARGV[8])

if redis.call('LINDEX', log, 0) ~= first or redis.call('LINDEX', log, elements - 1) ~= last then
  return 0
end
redis.call('LTRIM', log, elements, -1)
redis.call('LPUSH', log, base)
redis.call('EXPIRE', log, ttl_s)

if beside then
  local kept = redis.call('LLEN', beside)
  if kept == 0 then
    redis.call('RPUSH', beside, seed, chunk)
  elseif kept <= most then
    redis.call('RPUSH', beside, chunk)
  else
    redis.call('DEL', beside)
    redis.call('RPUSH', beside, base)
  end
  redis.call('EXPIRE', beside, ttl_s)
end
return 1
