"""From a validated request to a job on its lane: the message, and the one step that records and publishes it."""

import hashlib
import math
import re
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from rerankq.admission import Admission, Haste, known_models, refusal
from rerankq.answers import is_lost
from rerankq.contract import keys, wire
from rerankq.contract.clock import RedisClock
from rerankq.contract.errors import InvalidRequest, PayloadTooLarge
from rerankq.contract.messages import Lane, Ranking, RerankRequest, parse_request, thousands
from rerankq.contract.traces import HEADER as TRACE_HEADER
from rerankq.contract.traces import Submitting
from rerankq.contract.transport.envelope import PAYLOAD_HEADER, RECORD_HEADER, Envelope
from rerankq.contract.transport.publishing import task_message
from rerankq.contract.transport.scripts import STAMP, TRIED, RedisArgument, Script
from rerankq.contract.wire import PACK_TASK, RERANK_TASK
from rerankq.procedures import Command, Pause, Procedure, ask, ask_one, ask_script
from rerankq.settings import ClientSettings

# A job keeps its deadline by itself, between batches; Celery's limits are there should it fail to.
SOFT_LIMIT_MARGIN_SECONDS = 1.0
HARD_LIMIT_MARGIN_SECONDS = 3.0
_JOB_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_LOOK_AGAIN_SECONDS = 0.02
_VERY_MANY = 1e15

# KEYS: list, bell, open jobs, record, cancel key, payload, [models that jobs named]; ARGV: message, job id,
# fingerprint, seconds to live, until when its sender waits, "1" for an id that nobody used before, "1" to make a known
# job anew, payload or "", most jobs that may wait and that may be ahead, the model it names or "", then the record's
# fields and values. 1 for a job that is on its lane now, 0 for one that was known already, -1 for one whose sender has
# left: a frozen Redis carries out what it was sent long after; and how many wait and are ahead where there is no room.
# One step: nobody sees a job half submitted.
# The first write is one that a full Redis refuses, with the error that redis-py of any version names OutOfMemoryError.
SUBMIT = Script(
    TRIED
    + STAMP
    + """
local now = redis.call('TIME')
if now[1] + now[2] / 1e6 > tonumber(ARGV[5]) then return -1 end
if ARGV[6] == '1' and redis.call('EXISTS', KEYS[5]) == 1 then return -1 end
if ARGV[7] ~= '1' and redis.call('TYPE', KEYS[4]).ok == 'hash' then return 0 end
local waiting, open_jobs = redis.call('LLEN', KEYS[1]), redis.pcall('ZCARD', KEYS[3])
local ahead = math.max(waiting, tonumber(open_jobs) or 0)
if waiting > tonumber(ARGV[9]) or ahead > tonumber(ARGV[10]) then return {waiting, ahead} end
local message, stamp = stamped(ARGV[1], KEYS[3])
local failed = ARGV[8] ~= '' and tried('SET', KEYS[6], ARGV[8], 'EX', ARGV[4])
failed = failed or tried('LPUSH', KEYS[1], message)
if failed then
  if ARGV[8] ~= '' then redis.call('DEL', KEYS[6]) end
  if string.find(failed.err, 'OOM', 1, true) then
    return redis.error_reply("OOM command not allowed when used memory > 'maxmemory'.")
  end
  return failed
end
redis.call('DEL', KEYS[4], KEYS[5])
redis.call('HSET', KEYS[4], 'fingerprint', ARGV[3], unpack(ARGV, 12))
redis.call('EXPIRE', KEYS[4], ARGV[4])
open(KEYS[3], KEYS[4], ARGV[2], stamp)
redis.pcall('LPUSH', KEYS[2], 1)
redis.pcall('LTRIM', KEYS[2], 0, 127)
redis.pcall('EXPIRE', KEYS[2], 60)
if KEYS[7] then redis.pcall('ZADD', KEYS[7], now[1], ARGV[11]) end
return 1
"""
)

# KEYS: cancel key, record; ARGV: when the job was submitted, "1" for an id that nobody used before, seconds to live.
# Only what this sender submitted is called off. Of a new id the note may come before the job, which is then refused.
# Without its fingerprint a job that is submitted again is made anew, rather than found cancelled.
TAKE_BACK = Script("""
if redis.call('HEXISTS', KEYS[2], 'answered') == 1 then return 0 end
local submitted = redis.call('HGET', KEYS[2], 'submitted')
if submitted ~= ARGV[1] and (submitted or ARGV[2] ~= '1') then return 0 end
redis.call('SET', KEYS[1], 1, 'EX', submitted and ARGV[3] or 60)
redis.call('HDEL', KEYS[2], 'fingerprint')
return 1
""")


@dataclass(frozen=True, slots=True)
class Submission:
    """One message, ready to be sent."""

    job_id: str
    is_new: bool
    """Nobody has used the id before."""
    task: str
    lane: Lane
    model: str | None
    """The one that its requests name."""
    fields: bytes = field(repr=False)
    """The task's keyword arguments as they travel, in JSON."""
    summary: str
    requests: Sequence[RerankRequest] = field(repr=False)
    """As they were asked."""
    submitted: float
    """Unix seconds, by Redis's clock; so is the deadline."""
    deadline: float | None
    fingerprint: str
    body_bytes: int
    payload: bytes | None = field(repr=False)
    compress: bool
    submitting: Submitting = field(repr=False, compare=False)

    @property
    def queue(self) -> str:
        """The list it is put on."""
        return keys.queue_of(self.lane, self.model)

    def haste(self, clock: RedisClock) -> Haste:
        """By when its answer is wanted."""
        left = math.inf if self.deadline is None else self.deadline - clock.now()
        return Haste(left, all(request.on_deadline == "partial" for request in self.requests))

    def message(self) -> Envelope:
        """What is put there."""
        headers: dict[str, Any] = {
            RECORD_HEADER: keys.job(self.job_id),
            **_time_limits(self.submitted, self.deadline),
        }
        if self.submitting.traceparent:
            headers[TRACE_HEADER] = self.submitting.traceparent
        if self.payload:
            headers[PAYLOAD_HEADER] = keys.payload(self.job_id)
        return task_message(
            self.task,
            self.job_id,
            self.queue,
            self.fields,
            headers,
            summary=self.summary,
            compress=self.compress,
        )

    def record(self) -> dict[str, str | int | float]:
        """What `status` can tell of the job before any worker has seen it."""
        total = sum(len(request.documents) for request in self.requests)
        record = {"lane": self.lane, "total": total, "submitted": self.submitted}
        record |= {} if self.model is None else {"queue": self.queue}
        return record if self.deadline is None else {**record, "deadline": self.deadline}


def deliver(message: Submission, admission: Admission, settings: ClientSettings) -> Procedure[None]:
    """Admit, record and publish one message; a message that was delivered before is left alone.

    Raises:
        InvalidRequest: the job id belongs to another request.
        QueueFull, RedisError: nothing was accepted.
    """
    try:
        yield from _deliver(message, admission, settings)
    except BaseException as error:
        message.submitting.end(error)
        raise
    message.submitting.end(None)


def _deliver(message: Submission, admission: Admission, settings: ClientSettings) -> Procedure[None]:
    check_size(message, settings.max_payload_bytes)
    if (yield from _submit(message, admission, settings)):
        return
    known = yield from ask_one("HGETALL", keys.job(message.job_id))
    if known.get(b"fingerprint", b"").decode() not in ("", message.fingerprint):
        raise of_another_request(message.job_id)
    is_wanted = b"fingerprint" in known  # by whoever sent it before
    if is_wanted and (yield from _is_under_way(message.job_id, known, settings.redis_timeout_seconds)):
        yield from keep_open(message.job_id, known)
        return
    # The answer of a job that Redis lost shall not be taken for the one to come.
    yield from ask_one("DEL", keys.result(message.job_id), of="results")
    yield from _submit(message, admission, settings, anew=True)


def take_back(message: Submission) -> Command:
    """Call a job off that was submitted here, or is being submitted, and that nobody will wait for.

    One command, to be sent without a look at what Redis knows.
    """
    touched = [keys.cancel(message.job_id), keys.job(message.job_id)]
    is_new = "1" if message.is_new else ""
    return tuple(TAKE_BACK.in_full(touched, [message.submitted, is_new, keys.JOB_TTL_SECONDS]))


def keep_open(job_id: str, record: Mapping[bytes, bytes]) -> Procedure[None]:
    """Have workers miss the job's message even if the index of open jobs has vanished, perhaps with the message."""
    pushed = int(record.get(b"published", 0))
    if pushed <= 1 or b"answered" in record:  # 1: by a client of before, which kept no index
        return
    lane: Any = record[b"lane"].decode()
    queue = record[b"queue"].decode() if b"queue" in record else keys.queue_of(lane)
    with suppress(ResponseError):  # a full Redis, or a user without the right
        yield from ask_one("ZADD", keys.open_jobs(queue), "NX", pushed, job_id)


def record_of_the_lost(job_id: str) -> Procedure[dict[bytes, bytes]]:
    """What can be said of a job whose record is gone, evicted perhaps, while its message is not; else nothing."""
    queues = keys.queues_of((yield from known_models()))
    stamps = yield from ask(*(("ZSCORE", keys.open_jobs(queue), job_id) for queue in queues))
    for queue, stamp in zip(queues, stamps, strict=True):
        if stamp is not None and not isinstance(stamp, ResponseError):  # a user without the right to ask
            return {b"lane": keys.lane_of(queue).encode()}
    return {}


def _submit(
    message: Submission, admission: Admission, settings: ClientSettings, *, anew: bool = False
) -> Procedure[bool]:
    """Whether the job is on its lane now; False where it was known already."""
    haste = message.haste(admission.clock)
    room = yield from admission.admit(message.lane, message.model, haste)
    job_id = message.job_id
    touched = [
        message.queue,
        keys.bell_of(message.queue),
        keys.open_jobs(message.queue),
        keys.job(job_id),
        keys.cancel(job_id),
        keys.payload(job_id),
        *([] if message.model is None else [keys.MODELS]),
    ]
    arguments: list[RedisArgument] = [
        wire.encode(message.message()),
        job_id,
        message.fingerprint,
        keys.JOB_TTL_SECONDS,
        admission.clock.surely_before(settings.redis_timeout_seconds),
        "1" if message.is_new else "",
        "1" if anew else "",
        message.payload or "",
        min(room.waiting, _VERY_MANY),
        min(room.ahead, _VERY_MANY),
        message.model or "",
    ]
    for name_and_value in message.record().items():
        arguments += name_and_value
    submitted = yield from ask_script(SUBMIT, touched, arguments)
    if isinstance(submitted, list):
        waiting, ahead = submitted
        around = admission.around_of(message.model)
        raise admission.counted(refusal(message.lane, waiting, ahead, around, haste, settings))
    if submitted < 0:
        raise RedisTimeoutError("Redis was slower than its caller waits")
    return submitted == 1


def _is_under_way(job_id: str, known: Mapping[bytes, bytes], timeout_seconds: float) -> Procedure[bool]:
    """Whether the job has an answer or will have one; a client of before, submitting it right now, may finish."""
    meta = yield from ask_one("GET", keys.result(job_id), of="results")
    if b"answered" in known or meta is not None:
        return meta is not None and not is_lost(meta)  # what has expired or was lost is made anew
    give_up_at = time.monotonic() + timeout_seconds
    while not (yield from ask_one("HEXISTS", keys.job(job_id), "published")):
        if time.monotonic() >= give_up_at:
            return False
        yield Pause(_LOOK_AGAIN_SECONDS)
    return True


def validated(fields: Mapping[str, Any], settings: ClientSettings) -> RerankRequest:
    """A request within the limits of the settings."""
    request = parse_request(fields)
    settings.limits.check(request)
    return request


def as_request(given: Any, options: Mapping[str, Any], settings: ClientSettings) -> RerankRequest:
    """What `rerank_many` is given as a request; what it says itself goes before the options for all, lane among them.

    Raises:
        InvalidRequest: naming the field and what is wrong with it.
    """
    match given:
        case RerankRequest():
            settings.limits.check(given)
            return (
                given
                if "lane" in given.model_fields_set
                else given.model_copy(update={"lane": options["lane"]})
            )
        case Mapping():
            own = {name: given[name] for name in RerankRequest.model_fields if name in given}
            return validated({**options, **own}, settings)
        case (query, documents):
            return validated({**options, "query": query, "documents": documents}, settings)
        case _:
            raise InvalidRequest(
                "request: expected a RerankRequest, a mapping or (query, documents)", {"field": "request"}
            )


def job_submission(request: RerankRequest, job_id: str | None, clock: RedisClock) -> Submission:
    """The message of one request, its deadline turned from the caller's clock to Redis's."""
    return _submission([request], job_id, RERANK_TASK, request.summary(), clock)


def pack_submission(requests: Sequence[RerankRequest], pack_id: str | None, clock: RedisClock) -> Submission:
    """One message for several requests; each succeeds or fails by itself.

    Raises:
        InvalidRequest: the pack is empty, its requests name several models, or its id cannot be one.
    """
    if not requests:
        raise InvalidRequest("expected a pack of at least one request, got none")
    models = {request.model for request in requests}
    if len(models) > 1:
        raise InvalidRequest(
            f"model: expected the requests of a pack to name the same one, got {len(models)}; send a pack for each",
            {"field": "model"},
        )
    documents, characters = sum(len(r.documents) for r in requests), sum(r.characters for r in requests)
    summary = f"pack={len(requests)} docs={documents} chars={thousands(characters)}"
    return _submission(requests, pack_id, PACK_TASK, summary, clock)


def as_asked(ranking: Ranking, message: Submission | None) -> Ranking:
    """The ranking, with the texts where its request wanted them back: they never travel."""
    request = None if message is None else message.requests[0]
    return (
        ranking if request is None or not request.return_documents else ranking.with_documents(request.texts)
    )


def of_another_request(job_id: str) -> InvalidRequest:
    """What is told of an id that is taken."""
    return InvalidRequest(
        f"job id {job_id} belongs to another request; choose another id", {"field": "job_id"}
    )


def new_job_id() -> str:
    """A name nobody has used."""
    return uuid.uuid4().hex


def check_size(message: Submission, max_bytes: int) -> None:
    """Refuse a message that a worker would refuse to unpack."""
    if message.body_bytes > max_bytes:
        raise PayloadTooLarge(
            f"expected a message of at most {max_bytes:,} bytes, got {message.body_bytes:,}; split the job, or raise "
            "RERANKQ_MAX_PAYLOAD_BYTES on both sides",
            {"limit": max_bytes, "value": message.body_bytes},
        )


def _by_redis(request: RerankRequest, clock: RedisClock) -> RerankRequest:
    if request.deadline is None:
        return request
    return request.model_copy(update={"deadline": clock.from_ours(request.deadline)})


def _submission(
    requests: Sequence[RerankRequest], given_id: str | None, task: str, summary: str, clock: RedisClock
) -> Submission:
    job_id, timed = _checked_id(given_id), [_by_redis(request, clock) for request in requests]
    travelling = [request.to_wire() for request in timed]
    body = wire.encode(travelling[0] if task == RERANK_TASK else {"requests": travelling})
    deadlines = [request.deadline for request in timed if request.deadline is not None]
    documents = sum(len(request.documents) for request in requests)
    as_claim_check = len(body) > wire.CLAIM_CHECK_ABOVE_BYTES
    return Submission(
        job_id=job_id,
        is_new=given_id is None,
        task=task,
        lane=requests[0].lane,
        model=requests[0].model,
        fields=wire.encode({"payload": keys.payload(job_id)}) if as_claim_check else body,
        summary=summary,
        requests=requests,
        submitted=clock.now(),
        deadline=max(deadlines) if len(deadlines) == len(requests) else None,
        fingerprint=hashlib.blake2b(_timeless(requests), digest_size=16).hexdigest(),
        body_bytes=len(body),
        payload=wire.compress(body) if as_claim_check else None,
        compress=not as_claim_check and len(body) > wire.COMPRESS_ABOVE_BYTES,
        submitting=Submitting(requests[0].lane, documents, job_id),
    )


def askable_id(job_id: str) -> str:
    """The id of a job that may be anybody's: unlike our own, any text will do.

    Raises:
        InvalidRequest: it is none, so there is nothing to ask Redis for, or to wait for.
    """
    if not isinstance(job_id, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidRequest(f"job_id: expected a string, got {type(job_id).__name__}", {"field": "job_id"})
    if not job_id:
        raise InvalidRequest("job_id: expected the id of a job, got nothing", {"field": "job_id"})
    if not job_id.isprintable():  # as a lone surrogate is not
        raise InvalidRequest("job_id: expected characters that can be printed", {"field": "job_id"})
    return job_id


def _timeless(requests: Sequence[RerankRequest]) -> bytes:
    """A resend has a new deadline but is the same job."""
    return wire.encode(
        [request.model_dump(exclude={"deadline"}, exclude_defaults=True) for request in requests]
    )


def _checked_id(job_id: str | None) -> str:
    if job_id is None:
        return new_job_id()
    if not isinstance(job_id, str) or not _JOB_ID.fullmatch(job_id):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidRequest(
            "job_id: expected 1 to 128 letters, digits, '.', '_', ':' or '-'", {"field": "job_id"}
        )
    return job_id


def _time_limits(now: float, deadline: float | None) -> dict[str, Any]:
    """Celery's limits alone: its `expires` would be judged by the clock of the worker's machine."""
    if deadline is None:
        return {}
    left_seconds = max(deadline - now, 0.001)
    return {"timelimit": [left_seconds + HARD_LIMIT_MARGIN_SECONDS, left_seconds + SOFT_LIMIT_MARGIN_SECONDS]}
