"""Read what Redis holds of a job: its answer, its status. No I/O: both clients share it."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from rerankq.contract import wire
from rerankq.contract.clock import RedisClock
from rerankq.contract.errors import (
    InvalidRequest,
    JobFailed,
    RerankError,
    from_wire,
    of_revoked,
)
from rerankq.contract.keys import queue_of
from rerankq.contract.messages import LANES, Lane, Ranking
from rerankq.contract.orders import Pauses, pause_over
from rerankq.contract.redis_clients import number_in
from rerankq.contract.totals import Outcome, outcome_of

State = Outcome | Literal["queued", "running", "unknown"]

ANSWER_IS_LATE_SECONDS = 60.0  # between a worker's last word on a job and its answer being stored
_ANSWERED = ("SUCCESS", "FAILURE", "REVOKED")

Meta = bytes | Mapping[str, Any]
"""Celery's record of a task, as it lies in Redis or read."""


@dataclass(frozen=True, slots=True)
class JobStatus:
    """Where a job stands."""

    job_id: str
    state: State
    scored: int = 0
    total: int = 0
    lane: Lane | None = None
    submitted_at: float | None = None
    """Unix seconds, by the clock of whoever asks."""
    attempts: int = 0
    worker: str | None = None
    error: str | None = None
    paused_since: float | None = None
    """Of a queued job, since when an operator has its lane paused; Unix seconds, by the clock of whoever asks."""
    paused_model: str | None = None
    """The model whose jobs alone wait; None where its whole lane is paused, or is not."""


def read_meta(meta: Meta | None) -> Mapping[str, Any]:
    """Celery's record; empty where it is none."""
    if isinstance(meta, Mapping):
        return meta
    try:
        return _table(wire.decode(meta or b"{}"))
    except (ValueError, TypeError):
        return {}


def is_answer(meta: Meta | None) -> bool:
    """Whether Celery's record of a task holds its end; one that nobody can read holds none."""
    return read_meta(meta).get("status") in _ANSWERED


def is_lost(meta: Meta) -> bool:
    """Whether the answer only says that Redis lost the job; sending it again makes it a job anew."""
    fields = read_meta(meta)
    return fields["status"] == "FAILURE" and _error_in("", fields).retryable


def read_answer(job_id: str, meta: Meta) -> dict[str, Any]:
    """The body of a finished job's answer.

    Raises:
        RerankError: the job did not end in an answer; the error is the one the worker raised.
    """
    fields = read_meta(meta)
    if fields.get("status") != "SUCCESS":
        raise _error_in(job_id, fields)
    with _readable(job_id):
        return _table(fields["result"])


def read_ranking(job_id: str, meta: Meta) -> Ranking:
    """The ranking of a finished job.

    Raises:
        RerankError: the job did not end in a ranking.
    """
    answer = read_answer(job_id, meta)
    if "answers" in answer:
        count = len(read_pack(job_id, meta))
        raise InvalidRequest(
            f"job {job_id} is a pack of {count} requests; `Pack.answers()` has one answer for each"
        )
    with _readable(job_id):
        return Ranking.model_validate(answer)


def read_pack(job_id: str, meta: Meta) -> list[Ranking | RerankError]:
    """One ranking or one error for each request of a pack, in its order."""
    answer = read_answer(job_id, meta)
    with _readable(job_id):
        return [_member(_table(member)) for member in answer["answers"]]


def read_status(
    job_id: str,
    meta: Meta | None,
    record: Mapping[bytes, bytes],
    cancelled: bool,
    clock: RedisClock,
    pauses: Pauses | None = None,
) -> JobStatus:
    """The status that these three pieces tell together.

    Args:
        meta: Celery's record of the task, if any.
        record: our own record of the job; empty when there is none.
        cancelled: whether the job was called off.
        clock: the one by which the record was written.
        pauses: of lanes, as they are now.
    """
    fields = {name.decode(errors="replace"): value.decode(errors="replace") for name, value in record.items()}
    submitted, total = number_in(fields.get("submitted")), _count(fields, "total")
    state, error = _state(job_id, meta, fields, cancelled, clock.now())
    lane: Lane | None = next((lane for lane in LANES if lane == fields.get("lane")), None)
    pause = None
    if lane and state == "queued":
        pause = pause_over(pauses or {}, fields.get("queue") or queue_of(lane))
    return JobStatus(
        job_id=job_id,
        state=state,
        scored=total if state == "done" else _count(fields, "scored"),
        total=total,
        lane=lane,
        submitted_at=None if submitted is None else clock.to_ours(submitted),
        attempts=_count(fields, "attempts"),
        worker=fields.get("worker"),
        error=error,
        paused_since=None if pause is None else clock.to_ours(pause.since),
        paused_model=None if pause is None else pause.model,
    )


def _state(
    job_id: str, meta: Meta | None, fields: Mapping[str, str], cancelled: bool, now: float
) -> tuple[State, str | None]:
    if meta is not None and is_answer(meta):
        return _end_state(job_id, read_meta(meta))
    if not fields:
        return ("cancelled" if cancelled else "unknown"), None
    answered = number_in(fields.get("answered"))
    if answered is not None and now - answered > ANSWER_IS_LATE_SECONDS:
        return "unknown", None  # it was answered once, and the answer has expired
    if cancelled:
        return "cancelled", None
    return ("running" if "started" in fields else "queued"), None


def _end_state(job_id: str, fields: Mapping[str, Any]) -> tuple[State, str | None]:
    if fields["status"] == "SUCCESS":
        return "done", None
    error = _error_in(job_id, fields)
    return outcome_of(error), f"{type(error).__name__}: {error}"


def _error_in(job_id: str, fields: Mapping[str, Any]) -> RerankError:
    told = fields.get("result")
    result: dict[str, Any] = told if isinstance(told, dict) else {}
    message = result.get("exc_message")
    if not isinstance(message, list):
        message = [message] if isinstance(message, str) else []
    if fields["status"] == "REVOKED":
        return of_revoked(job_id, next(iter(message), None))
    return from_wire(str(result.get("exc_type")), message)


def _member(answer: Mapping[str, Any]) -> Ranking | RerankError:
    if "ranking" in answer:
        return Ranking.model_validate(answer["ranking"])
    error = answer["error"]
    return from_wire(str(error["type"]), (error["message"], error.get("details")))


def _table(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"expected a JSON object, got {type(value).__name__}")
    return value  # pyright: ignore[reportUnknownVariableType] - JSON


def _count(fields: Mapping[str, str], name: str) -> int:
    return int(number_in(fields.get(name)) or 0)


@contextmanager
def _readable(job_id: str) -> Generator[None]:
    """Tell an answer that is none by name; who wrote it, and what it says, is not known."""
    try:
        yield
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise JobFailed(
            f"the answer of job {job_id} cannot be read ({type(error).__name__}); something else has written there, "
            "or a worker of another release",
            {"where": "result"},
        ) from error
