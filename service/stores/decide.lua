-- Remember decisions, each together with what it was made from, unless its transaction has one already.
--
-- KEYS[1]   the stream of decisions; KEYS[i + 1] where the record of decision i belongs.
-- ARGV      about how many decisions the stream keeps, milliseconds until a record is forgotten,
--           then for each decision its transaction id, record and snapshot.
-- Returns   for each decision the record that stood before, or in a list of one where it is in the stream now.
local stream, most, ttl_ms = KEYS[1], ARGV[1], ARGV[2]
local standing = {}

for i = 1, #KEYS - 1 do
  local key, id, record, snapshot = KEYS[i + 1], ARGV[3 * i], ARGV[3 * i + 1], ARGV[3 * i + 2]
  local before = redis.call('GET', key)
  if before then
    standing[i] = before
  else
    local position = redis.call('XADD', stream, 'MAXLEN', '~', most, '*', 't', id, 'd', record, 's', snapshot)
    redis.call('SET', key, record .. position, 'PX', ttl_ms)
    standing[i] = { position }
  end
end
return standing
