"""Messages set aside for good: why, after how many attempts, and the message itself for another try.

A listing holds no user text: the message lies under a key of its own and is read only to send it again. Setting
aside is one script that moves the message out of its lease, so it works on a full Redis and cannot half happen.
The same script notes that somebody must still be told (`rerankq:untold`): whoever sets aside tells at once, and what
could not be told then is told by any worker later.
"""

import builtins
import math
import random
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import redis

from rerankq.contract import keys, wire
from rerankq.contract.errors import JobFailed, RerankError, from_wire, to_wire
from rerankq.contract.redis_clients import is_of_another_type, number_in
from rerankq.contract.transport.envelope import (
    DELIVERIES_HEADER,
    LONGEST_ID,
    PUSHED,
    Envelope,
    Undecodable,
    as_came,
    is_id,
    job_id,
    open_envelope,
    payload_key,
    record_key,
    seal_envelope,
)
from rerankq.contract.transport.scripts import STAMP, TRIED, Script

if TYPE_CHECKING:
    from rerankq.contract.transport.leases import Leases  # for workers; takes kombu

DEAD_LETTER_TTL_SECONDS = 7 * 24 * 3600
_OUR_SUMMARY = re.compile(r"\w+=[\w.]+( \w+=[\w.]+)*")  # `docs=50 chars=45k`; all else may quote the user


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """What is told of a message that was set aside."""

    id: str
    """The job's id, or the delivery's where the message named none."""
    task: str
    lane: str
    """The queue it came from."""
    attempts: int
    """How often a worker began it."""
    reason: str
    """One line: what was wrong, and with what."""
    summary: str
    """The sender's own `docs=50 chars=45k`, or the size; never the user's text."""
    size_bytes: int
    died_at: float = 0.0
    """Seconds since 1970 by the clock of Redis."""


class NotReplayable(ValueError):
    """The message itself is broken; sending it again could only set it aside again."""


# KEYS: an answer; ARGV: what it was. One that came since stays.
FORGET = Script("""
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
""")

# KEYS: held, leases, index, letter, message, untold, [payload key]; ARGV: tag, id, TTL in seconds, 1 = somebody must be
# told, name, value, ... Returns 0 when another worker has the message by now.
BURY = Script(
    TRIED
    + """
local held = redis.call('HGET', KEYS[1], ARGV[1])
if not held then return 0 end
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
local now = redis.call('TIME')
now = now[1] + now[2] / 1e6
redis.call('DEL', KEYS[4])
local failed = tried('SET', KEYS[5], held, 'EX', ARGV[3])
  or tried('HSET', KEYS[4], 'died_at', now, unpack(ARGV, 5))
if failed then
  redis.call('HSET', KEYS[1], ARGV[1], held)
  return failed
end
redis.call('EXPIRE', KEYS[4], ARGV[3])
redis.pcall('ZADD', KEYS[3], now, ARGV[2])
if ARGV[4] == '1' then redis.pcall('ZADD', KEYS[6], now, ARGV[2]) end
for _, index in ipairs({KEYS[3], KEYS[6]}) do redis.pcall('ZREMRANGEBYSCORE', index, '-inf', now - ARGV[3]) end
if KEYS[7] then redis.call('EXPIRE', KEYS[7], ARGV[3]) end
return 1
"""
)

# KEYS: index, letter, message, list, bell, untold, job record, payload, [open jobs]; ARGV: id, message, TTL in seconds
# of a letter that stays, and of what the job needs. Returns 0 when it is gone already. The job will end once more, and
# is counted then; of its attempts nothing is known any more, or the next would be taken for an older one; its time
# begins anew, lest the days among the letters be told as a wait for a worker.
REVIVE = Script(
    TRIED
    + STAMP
    + """
redis.pcall('ZREM', KEYS[1], ARGV[1])
local kept = redis.call('GET', KEYS[3])
if redis.call('DEL', KEYS[3]) == 0 then return 0 end
local message, stamp = ARGV[2], nil
if KEYS[9] then message, stamp = stamped(message, KEYS[9]) end
local failed = tried('LPUSH', KEYS[4], message)
if failed then
  redis.call('SET', KEYS[3], kept, 'EX', ARGV[3])
  redis.pcall('ZADD', KEYS[1], redis.call('HGET', KEYS[2], 'died_at') or 0, ARGV[1])
  return failed
end
redis.call('DEL', KEYS[2])
redis.pcall('ZREM', KEYS[6], ARGV[1])
redis.pcall('HDEL', KEYS[7], 'counted', 'answered', 'started', 'scored', 'attempts')
if redis.pcall('HEXISTS', KEYS[7], 'submitted') == 1 then
  local now = redis.call('TIME')
  redis.pcall('HSET', KEYS[7], 'submitted', string.format('%d.%06d', now[1], now[2]))
end
for i = 7, 8 do redis.pcall('EXPIRE', KEYS[i], ARGV[3]) end
redis.pcall('LPUSH', KEYS[5], 1)
redis.pcall('LTRIM', KEYS[5], 0, 127)
if stamp then open(KEYS[9], KEYS[7], ARGV[1], stamp) end
return 1
"""
)


def letter_for(tag: str, lane: str, raw: bytes, envelope: Envelope | None, error: RerankError) -> DeadLetter:
    """What to tell of a message set aside by this error; `envelope` is as much of it as could be read."""
    headers: Mapping[str, Any] = (envelope or {}).get("headers") or {}
    return DeadLetter(
        id=job_id(envelope or {}) or tag,
        task=headers["task"] if is_id(headers.get("task")) else "unknown",
        lane=lane,
        attempts=error.attempts if isinstance(error, JobFailed) else 0,
        reason=f"{type(error).__name__}: {error}",
        summary=_summary(headers) or f"bytes={len(raw)}",
        size_bytes=len(raw),
    )


def bury(
    client: redis.Redis,
    leases: "Leases",
    tag: str,
    letter: DeadLetter,
    *,
    untold: RerankError | None = None,
    headers: Envelope | None = None,
    ttl_seconds: int = DEAD_LETTER_TTL_SECONDS,
    prefix: str = "",
) -> bool:
    """Move a held message to the dead letters, noting what must still be told. False when another worker has it now."""
    payload = payload_key(headers)
    touched = [leases.held_key, leases.leases_key, *_keys_of(letter.id, prefix), prefix + keys.UNTOLD]
    error = {"error": wire.encode(to_wire(untold)).decode()} if untold else {}
    fields = {name: str(value) for name, value in asdict(letter).items() if name != "died_at"}
    told = [text for name_and_value in (fields | error).items() for text in name_and_value]
    arguments = [tag, letter.id, ttl_seconds, int(untold is not None), *told]
    return bool(BURY(client, [*touched, *([payload] if payload else [])], arguments))


def unusable(letter_id: str, why: str) -> JobFailed:
    """What is told of a message that no worker could read or run."""
    return JobFailed(
        f"the message is not usable: {why}; `rerankq dead show {letter_id}` tells more",
        {"attempts": 0, "where": "worker", "dead": True},
    )


def given_up(letter_id: str, attempts: int) -> JobFailed:
    """What is told of a job that has had all its attempts."""
    tried = f"{attempts} attempt{'' if attempts == 1 else 's'}"
    return JobFailed(
        f"given up after {tried}: each time the worker or the engine was lost, or the answer could not be "
        f"stored; `rerankq dead show {letter_id}` tells more",
        {"attempts": attempts, "where": "worker", "dead": True},
    )


class DeadLetters:
    """The dead letters in one Redis: list, show, retry, drop."""

    def __init__(self, client: redis.Redis, prefix: str = "") -> None:
        """`prefix` is kombu's `global_keyprefix`, if there is one."""
        self._client = client
        self._prefix = prefix

    def list(self, limit: int = 100) -> list[DeadLetter]:
        """The latest letters first."""
        ids: Any = self._client.zrevrange(self._prefix + keys.DEAD, 0, max(limit, 1) - 1)
        found = [self.show(letter_id.decode(errors="replace")) for letter_id in ids]
        return [letter for letter in found if letter is not None]

    def ids(self, at_most_died_at: float = math.inf) -> builtins.list[str]:
        """The letters that had died by then, the oldest first."""
        found: Any = self._client.zrangebyscore(self._prefix + keys.DEAD, "-inf", at_most_died_at)
        return [letter_id.decode(errors="replace") for letter_id in found]

    def count(self) -> int:
        return int(self._client.zcard(self._prefix + keys.DEAD))  # pyright: ignore[reportArgumentType] - redis-py

    def show(self, letter_id: str) -> DeadLetter | None:
        """The letter of that id; None when there is none or it has expired."""
        try:
            told: Any = self._client.hgetall(_keys_of(letter_id, self._prefix)[1])
        except redis.ResponseError as error:
            if not is_of_another_type(error):
                raise
            return None
        return _from_fields(letter_id, _as_text(told)) if told else None

    def message(self, letter_id: str) -> bytes | None:
        """The message as it lay on its list: this is the user's text."""
        held: Any = self._client.get(_keys_of(letter_id, self._prefix)[2])
        return held.partition(b"\n")[2] if held else None

    def untold(self, limit: int = 100) -> builtins.list[tuple[str, RerankError]]:
        """Jobs that were given up and whose callers have not been told, with what they are to be told.

        Any of them, at most `limit`: so that some that can never be told do not keep the others waiting.
        """
        key = self._prefix + keys.UNTOLD
        count: Any = self._client.zcard(key)
        start = random.randrange(max(count - limit, 0) + 1)  # noqa: S311 - no secret
        ids: Any = self._client.zrange(key, start, start + limit - 1)
        return [(job.decode(), self._error_of(job.decode())) for job in ids]

    def is_untold(self, letter_id: str) -> bool:
        """Whether the job was set aside and its caller is still to be told."""
        return self._client.zscore(self._prefix + keys.UNTOLD, letter_id) is not None

    def settle(self, letter_id: str) -> None:
        """Note that the caller has been told."""
        self._client.zrem(self._prefix + keys.UNTOLD, letter_id)

    def _error_of(self, letter_id: str) -> RerankError:
        told: Any = self._client.hget(_keys_of(letter_id, self._prefix)[1], "error")
        try:
            error = wire.decode(told or b"")
            return from_wire(error["type"], (error["message"], error["details"]))
        except (ValueError, TypeError, KeyError):
            return JobFailed(
                "given up; its dead letter is gone or cannot be read", {"where": "worker", "dead": True}
            )

    def now(self) -> float:
        """The time by the clock that letters are dated by."""
        seconds, microseconds = self._client.time()  # pyright: ignore[reportGeneralTypeIssues] - redis-py
        return seconds + microseconds / 1e6

    def check(self, letter_id: str) -> bool:
        """Whether there is a message to send again.

        Raises:
            NotReplayable: it cannot be read, so no worker could answer it.
        """
        raw = self.message(letter_id)
        if raw:
            _as_new(letter_id, raw)
        return bool(raw)

    def retry(self, letter_id: str) -> bool:
        """Send the message again with all its attempts before it. False when there is no such letter.

        Raises:
            NotReplayable: the message cannot be read, so no worker could answer it.
        """
        index, letter, message = _keys_of(letter_id, self._prefix)
        held: Any = self._client.get(message)
        if not held:
            return False
        list_key, _, raw = held.partition(b"\n")
        lane, envelope = list_key.decode(), _as_new(letter_id, raw)
        record = record_key(envelope["headers"])
        touched = [index, letter, message, lane, keys.bell_of(lane), self._prefix + keys.UNTOLD]
        touched += [
            record or keys.job(letter_id),
            payload_key(envelope["headers"]) or keys.payload(letter_id),
        ]
        if record and job_id(envelope):
            touched.append(keys.open_jobs(lane))
        arguments = [letter_id, seal_envelope(envelope), DEAD_LETTER_TTL_SECONDS]
        return bool(REVIVE(self._client, touched, arguments))

    def drop(self, letter_id: str) -> bool:
        """Delete the letter, its message and that one's large body, all or none of them. False when there was none."""
        index, letter, message = _keys_of(letter_id, self._prefix)
        payload = self._payload_of(letter_id)
        step = self._client.pipeline(transaction=True)
        step.zrem(index, letter_id)
        step.delete(letter, message, *([payload] if payload else []))
        return bool(step.execute()[1])

    def _payload_of(self, letter_id: str) -> str | None:
        try:
            return payload_key(open_envelope(self.message(letter_id) or b"").get("headers"))
        except Undecodable:
            return None


def _as_new(letter_id: str, raw: bytes) -> Envelope:
    try:
        envelope = open_envelope(raw)
    except Undecodable as error:
        raise NotReplayable(
            f"dead letter {letter_id} cannot be sent again: {error}; `rerankq dead drop {letter_id}` removes it"
        ) from error
    envelope.pop(PUSHED, None)
    for name in (DELIVERIES_HEADER, "redelivered"):
        envelope["headers"].pop(name, None)
    envelope["properties"]["delivery_info"].pop("redelivered", None)
    return as_came(envelope, "retried")


def _keys_of(letter_id: str, prefix: str) -> list[str]:
    names = [keys.DEAD, keys.dead_letter(letter_id), keys.dead_message(letter_id)]
    return [prefix + name for name in names]


def _from_fields(letter_id: str, told: Mapping[str, str]) -> DeadLetter:
    return DeadLetter(
        id=letter_id,
        task=told.get("task", "unknown"),
        lane=told.get("lane", "unknown"),
        attempts=int(number_in(told.get("attempts")) or 0),
        reason=told.get("reason", "unknown"),
        summary=told.get("summary", ""),
        size_bytes=int(number_in(told.get("size_bytes")) or 0),
        died_at=number_in(told.get("died_at")) or 0.0,
    )


def _as_text(told: Mapping[bytes, bytes]) -> dict[str, str]:
    return {name.decode(errors="replace"): value.decode(errors="replace") for name, value in told.items()}


def is_summary(text: str) -> bool:
    """Whether a text is a producer's summary (`docs=50 chars=45k`) and so safe to show."""
    return len(text) <= LONGEST_ID and _OUR_SUMMARY.fullmatch(text) is not None


def _summary(headers: Mapping[str, Any]) -> str | None:
    for name in ("kwargsrepr", "argsrepr"):
        text = headers.get(name)
        if isinstance(text, str) and is_summary(text):
            return text
    return None
