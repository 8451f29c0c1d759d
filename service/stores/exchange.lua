-- Replace the document about a transaction's outcomes if it still is what was read, and tell those who collect them.
--
-- KEYS    the document, the stream of outcomes.
-- ARGV    what was read ('' where there was none), what it becomes, seconds until it is forgotten,
--         about how many outcomes the stream keeps, and, if there is something to tell, that.
-- Returns 1 if it was replaced, 0 if somebody else did that in between.
local document, stream = KEYS[1], KEYS[2]
local before, after, ttl_s, most, news = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]

if (redis.call('GET', document) or '') ~= before then
  return 0
end
redis.call('SET', document, after, 'EX', ttl_s)
if news then
  redis.call('XADD', stream, 'MAXLEN', '~', most, '*', 'o', news)
end
return 1
