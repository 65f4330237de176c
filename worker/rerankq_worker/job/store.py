"""What the worker keeps of a job in Redis while it runs: its record, its checkpoint, whether it was called off.

Only the payload must be read; the rest is told as well as Redis is there, because a job whose scores are being made
must not end for a broker that restarts.
"""

import hashlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
from redis import Redis
from redis.exceptions import RedisError

from rerankq.contract import keys, wire
from rerankq.contract.calling_off import call_off
from rerankq.contract.clock import RedisClock
from rerankq.contract.errors import InvalidRequest, JobFailed, PayloadTooLarge
from rerankq.contract.heartbeats import Heartbeats
from rerankq.contract.messages import LANES, Lane
from rerankq.contract.redis_clients import is_of_another_type, number_in, reply_or
from rerankq.contract.totals import ABOUT, Outcome, of_end, of_ranking
from rerankq.contract.transport.dead_letters import DeadLetters
from rerankq.contract.transport.scripts import COUNT, RedisArgument, Script
from rerankq_worker.model.reading import Row
from rerankq_worker.scoring import Logits

LEFT_ALONE_SECONDS = 2.0  # after a failure, so that a job does not spend its time on a Redis that is away
PACE_PERIOD_SECONDS = 1.0
DIGEST_BYTES = 16

# A key that holds something of another type is told as such, and the rest all the same.
# KEYS: record, cancel key, checkpoint.
_LOOK_UP = Script("""
return {
  redis.pcall('HMGET', KEYS[1], 'submitted', 'answered', 'attempts'), redis.call('EXISTS', KEYS[2]),
  redis.pcall('GET', KEYS[3]), redis.call('TIME')
}
""")

# KEYS: record, cancel key; ARGV: seconds to live, then what is still to be recorded: not over another attempt's word.
_LOOK_AGAIN = Script("""
local cancelled, known = redis.call('EXISTS', KEYS[2]), redis.pcall('HMGET', KEYS[1], 'attempts', 'answered')
if ARGV[2] and cancelled == 0 and not known.err and not known[1] and not known[2] then
  redis.pcall('HSET', KEYS[1], unpack(ARGV, 2))
  redis.pcall('EXPIRE', KEYS[1], ARGV[1])
end
return {cancelled, known}
""")

# KEYS: the answer, record, cancel key, totals, checkpoint; ARGV: the answer, seconds it lives (0: for ever), seconds
# its record lives, how many of the next are the record's fields, these, what to count. 1 for stored, 0 where there is
# something already. The first write is the answer's: where Redis takes none, nothing is done; what becomes of the
# record keeps no answer back.
_ANSWER = Script(
    COUNT
    + """
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.call('SET', KEYS[1], ARGV[1], unpack(ARGV[2] ~= '0' and {'EX', ARGV[2]} or {}))
redis.call('PUBLISH', KEYS[1], ARGV[1])
redis.pcall('HSET', KEYS[2], unpack(ARGV, 5, 4 + ARGV[4]))
redis.pcall('EXPIRE', KEYS[2], ARGV[3])
redis.pcall('DEL', KEYS[3], KEYS[5])
count(KEYS[2], KEYS[4], 5 + ARGV[4])
return 1
"""
)

# KEYS: record, cancel key, totals, [checkpoint]; ARGV: seconds the record lives, how many of the next are its fields,
# these, what to count. The first write frees memory, so that it is done on a full Redis too.
_FINISH = Script(
    COUNT
    + """
redis.call('DEL', KEYS[2], KEYS[4] or KEYS[2])
redis.call('HSET', KEYS[1], unpack(ARGV, 3, 2 + ARGV[2]))
redis.call('EXPIRE', KEYS[1], ARGV[1])
count(KEYS[1], KEYS[3], 3 + ARGV[2])
"""
)

Stop = Literal["cancelled", "superseded"]
_NOTHING: Mapping[str, int] = {}
_T = TypeVar("_T")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Ranked:
    """What is known of a job whose ranking is there, and is counted when that is stored."""

    lane: Lane
    pairs: int
    submitted: float | None
    """Unix seconds, by Redis's clock; None where its sender recorded none."""
    wait_seconds: float
    """From then on until this attempt began."""

    def counts(self, now: float) -> dict[str, int]:
        """What to add to the totals where it is answered at this time."""
        if self.submitted is None:
            return of_ranking(self.lane, self.pairs, None, None)
        return of_ranking(self.lane, self.pairs, self.wait_seconds, now - self.submitted)


@dataclass(frozen=True, slots=True)
class JobRecord:
    """What is recorded of a job before it runs."""

    submitted: float | None
    """Unix seconds, by Redis's clock."""
    is_answered: bool
    """An answer has been stored: this is a second copy of the message."""
    is_cancelled: bool
    is_fresh: bool
    """No attempt has been recorded."""
    checkpoint: bytes | None
    """Scores that an earlier attempt left behind, of rows and a model that only it can tell."""


class JobStore:
    """The records of jobs, on the broker's Redis."""

    def __init__(self, broker: "Redis", max_payload_bytes: int, result_ttl_seconds: int) -> None:
        self._broker = broker
        self._max_payload_bytes = max_payload_bytes
        self._result_ttl_seconds = result_ttl_seconds
        self.clock = RedisClock()
        self._leave_alone_until = float("-inf")
        self._pace_told_at = float("-inf")
        self.is_told_of_answers = False
        """Whether `answer` stores them. That a job runs is then recorded with the first look at whether it still
        should, or with its answer where that comes first; at once where it is tried again.
        """
        self._unrecorded: dict[str, dict[str, RedisArgument]] = {}
        self._finished: str | None = None
        self._ranked: dict[str, Ranked] = {}

    def payload(self, key: object) -> Mapping[str, Any]:
        """The body that travelled beside its message, under the key that the message names.

        Raises:
            JobFailed: it is gone.
            PayloadTooLarge: it unpacks to more than the settings allow.
            InvalidRequest: it is no object in JSON and zstd, or what names it is no such key.
            RedisError
        """
        if not isinstance(key, str) or not key.startswith(keys.payload("")):
            raise InvalidRequest("payload: expected the key of a claim check", {"field": "payload"})
        packed: Any = self._broker.get(key)
        if packed is None:
            raise JobFailed("the job's payload is gone from Redis; submit the job again", {"where": "broker"})
        try:
            body = wire.decompress_bounded(packed, self._max_payload_bytes)
            fields = None if body is None else wire.decode(body)
        except ValueError:
            fields = ()
        if fields is None:
            raise PayloadTooLarge(
                f"expected a payload of at most {self._max_payload_bytes:,} bytes, got more"
            )
        if not isinstance(fields, dict):
            raise InvalidRequest(
                "payload: expected a JSON object packed with zstd, got something else", {"field": "payload"}
            )
        return fields  # pyright: ignore[reportUnknownVariableType] - JSON

    def look_up(self, job_id: str) -> JobRecord:
        """What is recorded of a job before it runs; for a producer that keeps no record, nothing."""
        self._unrecorded, self._finished, self._ranked = {}, None, {}
        asked_at = time.monotonic()
        (submitted, answered, attempts), cancelled, checkpoint, now = self._ask(
            _LOOK_UP,
            [keys.job(job_id), keys.cancel(job_id), keys.checkpoint(job_id)],
            otherwise=((None, None, b"unknown"), 0, None, None),
        )
        if now is not None:
            self.clock.learn(list(map(int, now)), asked_at)
        return JobRecord(
            submitted=number_in(submitted),
            is_answered=number_in(answered) is not None,
            is_cancelled=bool(cancelled),
            is_fresh=answered is None and attempts is None,
            checkpoint=checkpoint,
        )

    def is_untold(self, job_id: str) -> bool:
        """Whether the job was set aside and its caller is still to be told.

        Raises:
            RedisError
        """
        return DeadLetters(self._broker).is_untold(job_id)

    def start(
        self,
        job_id: str,
        lane: str,
        worker: str,
        attempt: int,
        known: JobRecord,
        *,
        documents: int,
    ) -> None:
        """Note that the job runs, and where.

        Args:
            documents: how many the job is about; there may be more rows.
        """
        fields: dict[str, RedisArgument] = {
            "lane": lane,
            "worker": worker,
            "attempts": attempt,
            "total": documents,
            "started": self.clock.now(),
        }
        if known.is_fresh and self.is_told_of_answers:
            self._unrecorded = {job_id: fields}
            return
        key = keys.job(job_id)
        pipeline = self._broker.pipeline(transaction=False)
        pipeline.hset(key, mapping=fields)  # pyright: ignore[reportArgumentType] - `dict` is invariant
        pipeline.hdel(key, "answered")
        pipeline.expire(key, keys.JOB_TTL_SECONDS)
        self._if_there(lambda: pipeline.execute(raise_on_error=False), None)

    def why_stop(self, job_id: str, attempt: int) -> Stop | None:
        """Whether somebody called the running job off, another attempt answered it or a later one runs; None: go on."""
        nothing = (0, (None, None))
        told = self._ask(
            _LOOK_AGAIN,
            [keys.job(job_id), keys.cancel(job_id)],
            [keys.JOB_TTL_SECONDS, *_pairs(self._unrecorded.get(job_id, {}))],
            otherwise=nothing,
        )
        if told is not nothing:
            self._unrecorded = {}
        cancelled, (latest, answered) = told
        if cancelled:
            return "cancelled"
        is_overtaken = number_in(answered) is not None or (number_in(latest) or 0) > attempt
        return "superseded" if is_overtaken else None

    def save_checkpoint(
        self, job_id: str, rows: Sequence[Row], logits: Logits, model: Sequence[str], *, scored: int
    ) -> None:
        """Keep the scores so far (NaN = not yet) for a later attempt, and tell how many documents are scored."""
        pipeline = self._broker.pipeline()
        saved = _digest(rows, model) + logits.astype("<f4").tobytes()
        pipeline.set(keys.checkpoint(job_id), saved, ex=keys.CHECKPOINT_TTL_SECONDS)
        pipeline.hset(keys.job(job_id), "scored", scored)
        self._if_there(pipeline.execute, None)

    def note_ranked(self, job_id: str, ranked: Ranked) -> None:
        """Remember until its answer what is counted with it."""
        self._ranked = {job_id: ranked}

    def finish(
        self,
        job_id: str,
        outcome: Outcome = "done",
        lane: Lane | None = None,
        *,
        also: Mapping[str, int] = _NOTHING,
    ) -> None:
        """Note that the answer is stored, and count the job's end; the record lives as long as the answer does.

        Args:
            outcome: of what is no ranking the scores are kept: who submits the job again goes on from them.
            lane: as its record says where absent.
            also: what else to count.
        """
        if job_id != self._finished:
            self._if_there(lambda: self._finish(job_id, outcome, lane, also), None)

    def answer(self, key: str, answer: bytes | str, seconds: int, job_id: str) -> bool:
        """Store a job's answer for so many seconds (0: for ever), announce it, and finish the job, in one step.

        Returns:
            False where there is something under the key already: nothing has been done.

        Raises:
            RedisError: nothing has been done.
        """
        now, ranked = self.clock.now(), self._ranked.get(job_id)
        record = _pairs({"answered": now, **self._unrecorded.get(job_id, {})})
        counts = _pairs(ranked.counts(now)) if ranked else []
        names = [key, keys.job(job_id), keys.cancel(job_id), keys.TOTALS, keys.checkpoint(job_id)]
        arguments = [answer, seconds, self._result_ttl_seconds, len(record), *record, *counts]
        if not _ANSWER(self._broker, names, arguments):
            return False
        self._finished = job_id
        return True

    def call_off(self, job_id: str) -> None:
        """Note that nobody wants this job any more.

        Raises:
            RedisError
        """
        call_off(self._broker, job_id)

    def begin_counting(self) -> None:
        """Have counting cost Redis as little as it can."""
        self._if_there(lambda: self._broker.hsetnx(keys.TOTALS, *ABOUT), None)

    def note_model(self, model: str) -> None:
        """Have the lanes of a model that a job names be found by whoever counts what waits."""
        self._if_there(lambda: self._broker.zadd(keys.MODELS, {model: self.clock.now()}), None)

    def tell_pace(
        self,
        worker: str,
        seconds_per_job: Mapping[Lane, float],
        pairs_per_second: float | None,
        recent_pairs: float,
    ) -> None:
        """Tell producers how fast jobs go here, not more often than they can use it."""
        if time.monotonic() - self._pace_told_at < PACE_PERIOD_SECONDS:
            return
        self._pace_told_at = time.monotonic()
        heartbeats = Heartbeats(self._broker)
        self._if_there(
            lambda: heartbeats.tell_pace(worker, seconds_per_job, pairs_per_second, recent_pairs), None
        )

    def _finish(self, job_id: str, outcome: Outcome, lane: Lane | None, also: Mapping[str, int]) -> None:
        now, ranked = self._now(), self._ranked.get(job_id) if outcome == "done" else None
        record = _pairs({"answered": now, **self._unrecorded.pop(job_id, {})})
        counts = ranked.counts(now) if ranked else of_end(lane or self._lane_of(job_id), outcome)
        names = [keys.job(job_id), keys.cancel(job_id), keys.TOTALS]
        names += [keys.checkpoint(job_id)] if outcome == "done" else []
        arguments = [self._result_ttl_seconds, len(record), *record, *_pairs(counts), *_pairs(also)]
        _FINISH(self._broker, names, arguments)

    def _lane_of(self, job_id: str) -> Lane:
        told: Any = self._broker.hget(keys.job(job_id), "lane")
        found: Lane | None = next((lane for lane in LANES if lane.encode() == told), None)
        return found or "bulk"

    def _now(self) -> float:
        """Redis's time, asked for where no job has told it lately: in the worker's main process."""
        if self.clock.is_stale:
            asked_at = time.monotonic()
            told: Any = self._broker.time()
            self.clock.learn(told, asked_at)
        return self.clock.now()

    def _ask(
        self,
        script: Script,
        names: Sequence[str],
        arguments: Sequence[RedisArgument] = (),
        *,
        otherwise: tuple[Any, ...],
    ) -> Any:
        """Its replies; `otherwise` in the place of each whose key holds something of another type."""

        def replies() -> list[Any]:
            told = script(self._broker, names, arguments)
            return [reply_or(reply, instead) for reply, instead in zip(told, otherwise, strict=True)]

        return self._if_there(replies, otherwise)

    def _if_there(self, call: Callable[[], Any], otherwise: _T) -> Any | _T:
        if time.monotonic() < self._leave_alone_until:
            return otherwise
        try:
            return call()
        except RedisError as error:
            if is_of_another_type(error):  # this job's key alone: the next job's record is kept
                return otherwise
            self._leave_alone_until = time.monotonic() + LEFT_ALONE_SECONDS
            logger.warning("a job's record is not kept for now: Redis raised %s", type(error).__name__)
            return otherwise


def scores_in(checkpoint: bytes | None, rows: Sequence[Row], model: Sequence[str]) -> Logits:
    """The scores that an earlier attempt left behind, NaN where there is none.

    Args:
        model: what the model is called and computed in; scores of another are of no use.
    """
    if (
        checkpoint is None
        or len(checkpoint) != _size(rows)
        or checkpoint[:DIGEST_BYTES] != _digest(rows, model)
    ):
        return np.full(len(rows), np.nan, dtype=np.float32)
    return np.frombuffer(checkpoint[DIGEST_BYTES:], dtype="<f4").astype(np.float32)


def _pairs(fields: Mapping[str, Any]) -> list[RedisArgument]:
    """As HSET takes them."""
    return [each for pair in fields.items() for each in pair]


def _size(rows: Sequence[Row]) -> int:
    return DIGEST_BYTES + 4 * len(rows)


def _digest(rows: Sequence[Row], model: Sequence[str]) -> bytes:
    """What makes a checkpoint fit for these rows and this model only."""
    digest = hashlib.blake2b("\n".join(model).encode(), digest_size=DIGEST_BYTES)
    for row in rows:
        digest.update(row.token_ids.tobytes())
    return digest.digest()
