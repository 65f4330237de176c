"""Waiting for a job's end: what is known of it, and what whoever waits does next."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from redis.exceptions import RedisError, ResponseError

from rerankq.admission import known_models
from rerankq.answers import JobStatus, Meta, State, is_answer, is_lost, read_meta, read_status
from rerankq.contract import keys
from rerankq.contract.calling_off import CALL_OFF
from rerankq.contract.clock import RedisClock
from rerankq.contract.errors import Cancelled, DeadlineExceeded, JobUnknown, RerankError, ResultTimeout
from rerankq.contract.messages import as_seconds
from rerankq.contract.orders import lane_in_words, orders_in, resume_command
from rerankq.contract.redis_clients import reply_or
from rerankq.contract.transport.scripts import Script
from rerankq.procedures import Listen, Pause, Procedure, ask, ask_one, ask_script
from rerankq.submission import keep_open, record_of_the_lost

ANSWER_GRACE_SECONDS = 1.0  # a partial ranking is given at the deadline and must still travel
POLL_SECONDS = 1.0  # pub/sub may drop a message; the answer itself is looked for this often
RECONNECT_SECONDS = 0.1

# KEYS: held, delayed, open jobs and lists. Messages, less those of open jobs.
STRANGERS = Script("""
local strangers = redis.call('HLEN', KEYS[1]) + redis.call('ZCARD', KEYS[2])
for i = 3, #KEYS do
  local kind = redis.call('TYPE', KEYS[i]).ok
  if kind == 'list' then strangers = strangers + redis.call('LLEN', KEYS[i]) end
  if kind == 'zset' then strangers = strangers - redis.call('ZCARD', KEYS[i]) end
end
return strangers
""")

Next = Literal["take the answer", "send it again", "wait", "give up"]


@dataclass(frozen=True, slots=True)
class Standing:
    """What Redis holds of a job."""

    meta: Meta | None
    """Celery's record of its end, if any."""
    record: Mapping[bytes, bytes]
    status: JobStatus


def what_next(meta: Meta | None, state: State, seconds_left: float, *, can_send: bool) -> Next:
    """What whoever waits for a job does now.

    Args:
        meta: Celery's record of the job's end, if any.
        can_send: the request is at hand, so a job that Redis lost can be put on its lane once more.
    """
    may_send = can_send and seconds_left > 0
    if meta is not None and is_answer(meta):
        return "send it again" if may_send and is_lost(meta) else "take the answer"
    if state == "unknown":
        return "send it again" if may_send else "give up"
    return "give up" if state == "cancelled" or seconds_left <= 0 else "wait"


def look_at(job_id: str, clock: RedisClock, *, is_ours: bool) -> Procedure[Standing]:
    """What Redis holds of a job now.

    Args:
        is_ours: it was submitted by a client like this, which leaves a record. A job of any other Celery client has
            none until a worker takes it; while there are such messages, a job without a trace may be one of them.
    """
    asked_at = time.monotonic()
    record, cancelled, now, paused = yield from ask(
        ("HGETALL", keys.job(job_id)), ("EXISTS", keys.cancel(job_id)), ("TIME",), ("HGETALL", keys.PAUSED)
    )
    clock.learn(reply_or(now, None), asked_at)
    # Read last: a job that ends in between has its answer seen.
    meta = yield from ask_one("GET", keys.result(job_id), of="results")
    record = reply_or(record, {}) or (yield from record_of_the_lost(job_id))
    status = read_status(job_id, meta, record, bool(reply_or(cancelled, 0)), clock, orders_in(paused))
    if status.state == "unknown" and not (record or is_ours) and (yield from _strangers_wait()):
        status = replace(status, state="queued")
    return Standing(meta, record, status)


def look_and_keep(job_id: str, clock: RedisClock, *, is_ours: bool) -> Procedure[JobStatus]:
    """Where a job stands, as `look_at` finds it; one that is not answered is missed from now on if it vanishes."""
    standing = yield from look_at(job_id, clock, is_ours=is_ours)
    if standing.meta is None:
        yield from keep_open(job_id, standing.record)
    return standing.status


def answer_of(
    job_id: str,
    timeout: float | None,
    clock: RedisClock,
    send_again: Callable[[], Procedure[None]] | None,
    grace_seconds: float = 0.0,
    *,
    is_heard_of: bool = False,
) -> Procedure[Meta]:
    """Celery's record of a job's end.

    Args:
        timeout: seconds to wait, or None for as long as it takes.
        grace_seconds: the last of them, for an answer that is on its way; not for a Redis that is away.
        send_again: puts the job on its lane once more; None where the request is not at hand.
        is_heard_of: somebody has listened since before the job was sent, so there is nothing to look for at first.

    Raises:
        ResultTimeout: it was not there in time.
        JobUnknown, Cancelled, RedisError
    """
    allowed_seconds = math.inf if timeout is None else as_seconds(timeout)
    began_at = time.monotonic()
    give_up_at = began_at + allowed_seconds
    away_until = give_up_at - grace_seconds
    wait = _until_the_next_look(allowed_seconds, grace_seconds) if is_heard_of else 0.0
    while True:
        try:
            heard = yield Listen(wait)
            standing = _ended(job_id, heard) or (
                yield from look_at(job_id, clock, is_ours=send_again is not None)
            )
            left = give_up_at - time.monotonic()
            step = yield from _next_step(standing, left, send_again)
            if step == "take the answer" and standing.meta is not None:
                return standing.meta
            if step == "give up":
                raise _no_answer(standing.status, allowed_seconds)
            if standing.meta is None and time.monotonic() - began_at > POLL_SECONDS / 2:
                yield from keep_open(job_id, standing.record)
            wait = _until_the_next_look(left, grace_seconds)
        except RedisError:  # a restarting Redis is ridden out within the time the caller gave
            if time.monotonic() + RECONNECT_SECONDS > away_until:
                raise
            yield Pause(RECONNECT_SECONDS)
            wait = 0.0


def listened_for(sending: Procedure[None]) -> Procedure[None]:
    """Listen for the end of a job, then send it."""
    yield Listen(0.0)
    yield from sending


def call_off(job_id: str) -> Procedure[None]:
    """Note that nobody wants this job any more; one that is answered stays so."""
    touched = [keys.cancel(job_id), keys.job(job_id)]
    yield from ask_script(CALL_OFF, touched, [keys.JOB_TTL_SECONDS])


def may_leave_a_job(error: BaseException) -> bool:
    """Whether, leaving by this error, whoever asked may leave a job behind that nobody waits for."""
    return isinstance(error, ResultTimeout) or not isinstance(error, RerankError)


def given_up(job_id: str, timeout: float, error: ResultTimeout) -> DeadlineExceeded:
    """The caller's wait ran out and with it the job."""
    paused = error.details.get("paused")
    why = f"{lane_in_words(paused, error.details.get('paused_model'))} is paused, and " if paused else ""
    return DeadlineExceeded(
        f"no answer for job {job_id} within {timeout:g} s; {why}it was called off", {"job_id": job_id}
    )


def _strangers_wait() -> Procedure[bool]:
    """Whether there are messages, waiting or just taken, other than those of open jobs."""
    queues = keys.queues_of((yield from known_models()))
    indexes = [keys.open_jobs(queue) for queue in queues]
    lists = [each for queue in queues for each in (queue, *keys.priority_lists(queue))]
    try:
        return (yield from ask_script(STRANGERS, [keys.HELD, keys.DELAYED, *indexes, *lists], [])) > 0
    except ResponseError:  # a user who may not count what workers hold sees what waits, whoever sent it
        lengths = yield from ask(*(("LLEN", each) for each in lists))
        return any(isinstance(length, int) and length > 0 for length in lengths)


def _until_the_next_look(seconds_left: float, grace_seconds: float) -> float:
    """Of the seconds that are left; a look when the grace begins notices by then that Redis is away."""
    is_in_grace = seconds_left <= grace_seconds
    return min(seconds_left if is_in_grace else seconds_left - grace_seconds, POLL_SECONDS)


def _ended(job_id: str, heard: bytes | None) -> Standing | None:
    meta = read_meta(heard)  # once for all who ask what it says
    return Standing(meta, {}, JobStatus(job_id, "done")) if is_answer(meta) else None


def _next_step(
    standing: Standing, seconds_left: float, send_again: Callable[[], Procedure[None]] | None
) -> Procedure[Next]:
    meta, state = standing.meta, standing.status.state
    step = what_next(meta, state, seconds_left, can_send=send_again is not None)
    if step != "send it again" or send_again is None:
        return step
    try:
        yield from send_again()
    except (RerankError, RedisError):
        return what_next(meta, state, seconds_left, can_send=False)
    return "wait"


def _no_answer(status: JobStatus, timeout: float) -> RerankError:
    job_id = status.job_id
    if status.state == "unknown":
        return JobUnknown(f"job {job_id} is not known; it never was, or its answer has expired")
    if status.state == "cancelled":
        return Cancelled(f"job {job_id} was cancelled")
    situation = f"no answer for job {job_id} within {timeout:g} s"
    if status.lane is not None and status.paused_since is not None:
        return ResultTimeout(
            f"{situation}: {lane_in_words(status.lane, status.paused_model)} is paused; it is answered after "
            f"`{resume_command(status.lane, status.paused_model)}`",
            {"paused": status.lane, "paused_model": status.paused_model},
        )
    return ResultTimeout(f"{situation}; it may still finish: `rerankq status {job_id}` tells")
