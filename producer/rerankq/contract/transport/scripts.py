"""The Lua that moves messages: each step inside Redis is one script; no message is ever between two places.

No script begins with `#!lua`: a plain script may run on a full Redis as long as its first write is one that
frees memory (RPOP, HDEL, ZREM), and each one here starts with such a write. Fetch, ack, put back and sweep
therefore work at `maxmemory`, and the queue can drain; only `PUSH` is refused there, and says so.

A held message is stored as `<list it came from>\\n<message>`, a delayed one as the same in a sorted set.
Times are the Redis clock, never a worker's.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import redis
from redis.exceptions import NoScriptError

from rerankq.contract.totals import CAUSES, DELIVERED

RedisArgument = bytes | str | int | float


class Script:
    """A Lua script, called by its hash and sent in full only when the server does not know it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = hashlib.sha1(text.encode()).hexdigest()  # noqa: S324 - Redis names scripts by SHA-1

    def __call__(self, client: redis.Redis, keys: Sequence[str], arguments: Sequence[RedisArgument]) -> Any:
        try:
            return execute(client, *self.by_hash(keys, arguments))
        except NoScriptError:
            return execute(client, *self.in_full(keys, arguments))

    def by_hash(self, keys: Sequence[str], arguments: Sequence[RedisArgument]) -> list[RedisArgument]:
        return ["EVALSHA", self.sha, len(keys), *keys, *arguments]

    def in_full(self, keys: Sequence[str], arguments: Sequence[RedisArgument]) -> list[RedisArgument]:
        return ["EVAL", self.text, len(keys), *keys, *arguments]


def execute(client: redis.Redis, *command: RedisArgument) -> Any:
    """Run a command whose keys carry `global_keyprefix` already; kombu's client would prefix the first."""
    return redis.Redis.execute_command(client, *command)


# A job's end is counted once, whoever tells it and however often: its record says so. What cannot be counted (by a user
# without the right, say) keeps nothing else from being done.
COUNT = """
local function count(record, totals, from)
  if redis.pcall('HSETNX', record, 'counted', 1) ~= 1 then return end
  for i = from, #ARGV, 2 do redis.pcall('HINCRBY', totals, ARGV[i], ARGV[i + 1]) end
end
"""

# A script that fails half-way undoes nothing by itself. Where a message cannot be put down (something else lies under
# the key, or the user may not write there), it goes back to where it was, and the error is the reply.
TRIED = """
local function tried(...)
  local reply = redis.pcall(...)
  if type(reply) == 'table' and reply.err then return reply end
end
"""

# A message that comes again says why where a look at its beginning finds it, however long it is; what is no word of
# ours there counts as the first time.
_DELIVERED = f"""
local function delivered(totals, message)
  local at = string.match(message, '^{{"pushed": %d+, ()') or 2
  local cause = string.match(message, '^"came": "([a-z_]+)"', at)
  if not cause or not string.find(' {" ".join(CAUSES)} ', ' ' .. cause .. ' ', 1, true) then cause = 'first' end
  redis.pcall('HINCRBY', totals, '{DELIVERED}' .. cause, 1)
end
"""

# KEYS: held, leases, paused, totals, <lists, most wanted first>, <bells>; ARGV: tag, lease seconds, number of lists,
# then per list 1 (hold it under a lease) or 0 (its consumer does not acknowledge), then per list the two fields of
# `paused` that keep it. Returns {index of the list, message}, or nothing: then all lists are empty or paused, every
# ring so far is answered, and the bells go.
FETCH = Script(
    TRIED
    + _DELIVERED
    + """
local lists = tonumber(ARGV[3])
local paused = {}
for _, name in ipairs(redis.pcall('HKEYS', KEYS[3])) do paused[name] = true end
local function is_paused(i) return paused[ARGV[2 + lists + 2 * i]] or paused[ARGV[3 + lists + 2 * i]] end
for i = 1, lists do
  local message = not is_paused(i) and redis.call('RPOP', KEYS[4 + i])
  if message then
    if ARGV[3 + i] == '1' then
      local now = redis.call('TIME')
      local failed = tried('HSET', KEYS[1], ARGV[1], KEYS[4 + i] .. '\\n' .. message)
        or tried('ZADD', KEYS[2], now[1] + now[2] / 1e6 + ARGV[2], ARGV[1])
      if failed then
        redis.pcall('HDEL', KEYS[1], ARGV[1])
        redis.call('RPUSH', KEYS[4 + i], message)
        return failed
      end
      delivered(KEYS[4], message)
    end
    return {i, message}
  end
end
for i = 5 + lists, #KEYS do redis.call('DEL', KEYS[i]) end
return false
"""
)

# KEYS: queues; ARGV: what stands between a queue and a priority. Returns how many messages wait on each, those of any
# priority included: of the nineteen lists all but one are hardly ever there.
WAITING = Script("""
local lengths = {}
for at, queue in ipairs(KEYS) do
  local others = {}
  for _, between in ipairs(ARGV) do
    for priority = 1, 9 do others[#others + 1] = queue .. between .. priority end
  end
  lengths[at] = redis.call('LLEN', queue)
  if redis.call('EXISTS', unpack(others)) > 0 then
    for _, list in ipairs(others) do lengths[at] = lengths[at] + redis.call('LLEN', list) end
  end
end
return lengths
""")

# KEYS: held. Returns each list that messages held by workers came from, and how many did.
HELD = Script(r"""
local counts, found = {}, {}
for _, tag in ipairs(redis.call('HKEYS', KEYS[1])) do
  local list = string.match(redis.call('HGET', KEYS[1], tag), '^([^\n]*)\n') or ''
  counts[list] = (counts[list] or 0) + 1
end
for list, count in pairs(counts) do
  found[#found + 1] = list
  found[#found + 1] = count
end
return found
""")

# KEYS: list, bell, other lists; ARGV: most messages to move. Puts what lies on the others behind what is on the list.
GATHER = Script(
    TRIED
    + """
local left = tonumber(ARGV[1])
for i = 3, #KEYS do
  while left > 0 do
    local message = redis.pcall('RPOP', KEYS[i])
    if type(message) ~= 'string' then break end
    local failed = tried('LPUSH', KEYS[1], message)
    if failed then
      redis.call('RPUSH', KEYS[i], message)
      return failed
    end
    redis.pcall('LPUSH', KEYS[2], 1)
    redis.pcall('LTRIM', KEYS[2], 0, 127)
    left = left - 1
  end
end
"""
)

# A job is closed by its own message alone: where it was sent again, an older copy leaves it open.
_CLOSE = """
local function close(index, id, pushed)
  if tonumber(redis.pcall('ZSCORE', index, id)) == tonumber(pushed) then redis.call('ZREM', index, id) end
end
"""

# KEYS: open jobs; ARGV: job id, when its message was pushed.
CLOSE = Script(_CLOSE + "close(KEYS[1], ARGV[1], ARGV[2])")

# KEYS: held, leases, [open jobs], [payload key]; ARGV: tag, [job id, when its message was pushed]. Returns 0 when
# another worker has the message by now: then nothing is deleted, least of all the payload that the other worker is
# about to read.
ACK = Script(
    _CLOSE
    + """
if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 then return 0 end
redis.pcall('ZREM', KEYS[2], ARGV[1])
if ARGV[2] then close(KEYS[3], ARGV[2], ARGV[3]) end
local payload = KEYS[ARGV[2] and 4 or 3]
if payload then redis.call('DEL', payload) end
return 1
"""
)

# KEYS: leases; ARGV: lease seconds, tags. A lease that is gone is not taken back. Removed and added rather than
# `ZADD XX`, which a full Redis refuses.
RENEW = Script("""
local now = redis.call('TIME')
local expires_at = now[1] + now[2] / 1e6 + ARGV[1]
local renewed = 0
for i = 2, #ARGV do
  if redis.call('ZREM', KEYS[1], ARGV[i]) == 1 then
    renewed = renewed + redis.call('ZADD', KEYS[1], expires_at, ARGV[i])
  end
end
return renewed
""")

# KEYS: held, leases, delayed, list, bell; ARGV: tag, message, seconds to wait, 1 = only if the lease ran out.
# Compare and move on one tag. Returns 0 when somebody else was quicker.
PUT_BACK = Script(
    TRIED
    + """
local now = redis.call('TIME')
now = now[1] + now[2] / 1e6
if ARGV[4] == '1' then
  local expires_at = redis.call('ZSCORE', KEYS[2], ARGV[1])
  if expires_at and tonumber(expires_at) > now then return 0 end
end
redis.call('ZREM', KEYS[2], ARGV[1])
if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 then return 0 end
local held = KEYS[4] .. '\\n' .. ARGV[2]
local failed
if tonumber(ARGV[3]) > 0 then
  failed = tried('ZADD', KEYS[3], now + ARGV[3], held)
else
  failed = tried('RPUSH', KEYS[4], ARGV[2])
end
if failed then
  redis.call('HSET', KEYS[1], ARGV[1], held)
  return failed
end
if tonumber(ARGV[3]) <= 0 then
  redis.pcall('LPUSH', KEYS[5], 1)
  redis.pcall('LTRIM', KEYS[5], 0, 127)
end
return 1
"""
)

# KEYS: held, leases, delayed; ARGV: most messages to handle, suffix of a bell, lease seconds.
# Puts delayed messages whose time has come on their list; returns tag, held message, ... of expired leases. What is
# held without a lease (somebody deleted or evicted them) gets one, which its worker renews if it lives.
# The first line writes nothing, and is refused where nobody can renew a lease either: no worker is judged there.
SWEEP = Script(
    TRIED
    + """
redis.call('ZREM', KEYS[2], '')
local now = redis.call('TIME')
now = now[1] + now[2] / 1e6
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now, 'LIMIT', 0, ARGV[1])) do
  redis.call('ZREM', KEYS[3], member)
  local cut = string.find(member, '\\n', 1, true)
  local list = string.sub(member, 1, cut - 1)
  if tried('RPUSH', list, string.sub(member, cut + 1)) then redis.call('ZADD', KEYS[3], now + ARGV[3], member) end
  local bell = string.gsub(list, '\\6\\22%d+$', '') .. ARGV[2]
  redis.pcall('LPUSH', bell, 1)
  redis.pcall('LTRIM', bell, 0, 127)
end
if redis.call('HLEN', KEYS[1]) > redis.call('ZCARD', KEYS[2]) then
  for _, tag in ipairs(redis.call('HKEYS', KEYS[1])) do redis.pcall('ZADD', KEYS[2], 'NX', now + ARGV[3], tag) end
end
local expired = {}
for _, tag in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, ARGV[1])) do
  local message = redis.call('HGET', KEYS[1], tag)
  if message then
    expired[#expired + 1] = tag
    expired[#expired + 1] = message
  else
    redis.call('ZREM', KEYS[2], tag)
  end
end
return expired
"""
)

# The stamp of a message is later than those of the open jobs before it even if the clock was set back. Without the
# right to keep the index, or with something else in its place, a job is sent all the same and not missed when it
# vanishes.
STAMP = """
local function stamped(message, index)
  local now, last = redis.call('TIME'), redis.pcall('ZRANGE', index, -1, -1, 'WITHSCORES')
  local stamp = string.format('%.0f', math.max(now[1] * 1e6 + now[2], (tonumber(last[2]) or 0) + 1))
  return '{"pushed": ' .. stamp .. ', ' .. string.sub(message, 2), stamp
end
local function open(index, record, id, stamp)
  redis.pcall('ZADD', index, stamp, id)
  if redis.pcall('EXISTS', record) == 1 then redis.pcall('HSET', record, 'published', stamp) end
end
"""

# KEYS: held, leases, list, bell, [open jobs of the list it came from, of this one, job record]; ARGV: tag, message,
# [job id, when its message was pushed]. Compare and move on one tag, to the end of another list, where its job is open
# from now on. A job that is open there has its message there: this is a copy, and dropped. An older client looks for
# its job on the common list alone, and sends one every two seconds. Returns 0 when somebody else was quicker.
HAND_ON = Script(
    TRIED
    + STAMP
    + _CLOSE
    + """
local kept = redis.call('HGET', KEYS[1], ARGV[1])
if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 then return 0 end
redis.call('ZREM', KEYS[2], ARGV[1])
local message, stamp = ARGV[2], nil
if ARGV[3] then
  if type(redis.pcall('ZSCORE', KEYS[6], ARGV[3])) == 'string' then
    close(KEYS[5], ARGV[3], ARGV[4])
    return 1
  end
  message, stamp = stamped(message, KEYS[6])
end
local failed = tried('LPUSH', KEYS[3], message)
if failed then
  redis.call('HSET', KEYS[1], ARGV[1], kept)
  return failed
end
redis.pcall('LPUSH', KEYS[4], 1)
redis.pcall('LTRIM', KEYS[4], 0, 127)
redis.pcall('EXPIRE', KEYS[4], 60)
if stamp then
  close(KEYS[5], ARGV[3], ARGV[4])
  open(KEYS[6], KEYS[7], ARGV[3], stamp)
  if redis.pcall('EXISTS', KEYS[7]) == 1 then redis.pcall('HSET', KEYS[7], 'queue', KEYS[3]) end
end
return 1
"""
)

# KEYS: list, bell, then open jobs and job record, or the queue's other lists; ARGV: message, time to live of a
# short-lived queue in ms or 0, [id of the job that is open from now on].
# A ring wakes whoever waits now; on the list of somebody else's worker, who hears none, it must not stay.
# LPUSH is refused on a full Redis; the producer gets redis-py's OutOfMemoryError for it from any version.
PUSH = Script(
    STAMP
    + """
local message, stamp = ARGV[1], nil
if ARGV[3] then message, stamp = stamped(message, KEYS[3]) end
local pushed = redis.pcall('LPUSH', KEYS[1], message)
if type(pushed) == 'table' and pushed.err then
  if string.find(pushed.err, 'OOM', 1, true) then
    return redis.error_reply("OOM command not allowed when used memory > 'maxmemory'.")
  end
  return pushed
end
redis.call('LPUSH', KEYS[2], 1)
redis.call('LTRIM', KEYS[2], 0, 127)
redis.call('EXPIRE', KEYS[2], 60)
if stamp then open(KEYS[3], KEYS[4], ARGV[3], stamp) end
if ARGV[2] ~= '0' then
  for i = 1, #KEYS do redis.call('PEXPIRE', KEYS[i], ARGV[2]) end
end
return pushed
"""
)

# KEYS: list, open jobs, looked, held, delayed; ARGV: ms until somebody else looks, most jobs to tell of.
# Returns job id, when its message was pushed, ... of open jobs whose message is nowhere. At the front of the list lie
# messages that came back, in any order; the first that did not is older than all behind it. A hundred of those that
# came back, or more messages held and delayed than can be looked through at once, leave the question to a later look.
MISSING = Script("""
if redis.call('EXISTS', KEYS[2]) == 0 then return {} end
local is_first = redis.pcall('SET', KEYS[3], 1, 'PX', ARGV[1], 'NX')
if not is_first or is_first.err then return {} end
local away = redis.call('HLEN', KEYS[4]) + redis.call('ZCARD', KEYS[5])
if away > 1000 then return {} end
local present, older_than = {}, nil
local function see(message, pattern)
  local stamp = string.match(message, pattern)
  if stamp then present[stamp] = true end
  return stamp
end
for i = 1, 100 do
  local message = redis.call('LINDEX', KEYS[1], -i)
  if not message then
    older_than = '+inf'
    break
  end
  local stamp = see(message, '^{"pushed": (%d+)')
  if stamp and not string.find(message, '"redelivered": true', 1, true) then
    older_than = '(' .. stamp
    break
  end
end
if not older_than then return {} end
local most = 100 + away + ARGV[2]
local open = redis.pcall('ZRANGEBYSCORE', KEYS[2], '-inf', older_than, 'WITHSCORES', 'LIMIT', 0, most)
if #open == 0 then return {} end
for _, message in ipairs(redis.call('HVALS', KEYS[4])) do see(message, '^[^\\n]*\\n{"pushed": (%d+)') end
for _, message in ipairs(redis.call('ZRANGE', KEYS[5], 0, -1)) do see(message, '^[^\\n]*\\n{"pushed": (%d+)') end
local missing = {}
for i = 1, #open, 2 do
  if not present[string.format('%.0f', open[i + 1])] and #missing < 2 * ARGV[2] then
    missing[#missing + 1] = open[i]
    missing[#missing + 1] = open[i + 1]
  end
end
return missing
""")
