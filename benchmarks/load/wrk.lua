-- Sends prepared requests one after the other, each once, from where it is told to begin.
-- Arguments: the file (each request after its length in LENGTH_DIGITS digits), where to begin in it, and `again` if it
-- is to begin anew when all were sent. Prints what it measured, and how many requests it took, as JSON.
LENGTH_DIGITS = 6
BUFFER_BYTES = 1048576

function setup(thread)
  the_thread = thread
end

function init(arguments)
  file = assert(io.open(arguments[1], "rb"))
  file:setvbuf("full", BUFFER_BYTES)
  file:seek("set", tonumber(arguments[2]))
  again = arguments[3] == "again"
  taken = 0
  used_up = false
end

function request()
  local digits = file:read(LENGTH_DIGITS)
  if not digits and again then
    file:seek("set", 0)
    digits = file:read(LENGTH_DIGITS)
  end
  if not digits then -- wrk wants something to send all the same; whoever started this discards such a run
    used_up = true
    wrk.thread:stop()
    return last
  end
  taken = taken + 1
  last = file:read(tonumber(digits))
  return last
end

function done(summary, latency, _)
  local errors = summary.errors
  io.write(string.format(
    '\n{"requests": %d, "seconds": %f, "median_ms": %f, "p99_ms": %f, "failed": %d, "refused": %d, "taken": %d, ' ..
    '"used_up": %s}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    errors.connect + errors.read + errors.write + errors.timeout, errors.status,
    the_thread:get("taken"), tostring(the_thread:get("used_up"))
  ))
end
