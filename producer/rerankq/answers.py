"""Read what Redis holds of a job: its answer, its status. No I/O: both clients share it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rerankq.contract import wire
from rerankq.contract.clock import RedisClock
from rerankq.contract.errors import Cancelled, DeadlineExceeded, JobFailed, RerankError, from_wire, of_revoked
from rerankq.contract.messages import Lane, Ranking

State = Literal["queued", "running", "done", "failed", "dead", "cancelled", "expired", "unknown"]

ANSWER_IS_LATE_SECONDS = 60.0  # between a worker's last word on a job and its answer being stored
_ANSWERED = frozenset({"SUCCESS", "FAILURE", "REVOKED"})


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


def is_answer(meta: bytes | None) -> bool:
    """Whether Celery's record of a task holds its end."""
    return meta is not None and wire.decode(meta)["status"] in _ANSWERED


def is_lost(meta: bytes) -> bool:
    """Whether the answer only says that Redis lost the job; sending it again makes it a job anew."""
    fields = wire.decode(meta)
    return fields["status"] == "FAILURE" and _error_in("", fields).retryable


def read_answer(job_id: str, meta: bytes) -> dict[str, Any]:
    """The body of a finished job's answer.

    Raises:
        RerankError: the job did not end in an answer; the error is the one the worker raised.
    """
    fields = wire.decode(meta)
    if fields["status"] == "SUCCESS":
        return fields["result"]
    raise _error_in(job_id, fields)


def read_ranking(job_id: str, meta: bytes) -> Ranking:
    """The ranking of a finished job.

    Raises:
        RerankError: the job did not end in a ranking.
    """
    return Ranking.model_validate(read_answer(job_id, meta))


def read_pack(job_id: str, meta: bytes) -> list[Ranking | RerankError]:
    """One ranking or one error for each request of a pack, in its order.

    Raises:
        RerankError: the pack as a whole failed.
    """
    return [_member(answer) for answer in read_answer(job_id, meta)["answers"]]


def read_status(
    job_id: str, meta: bytes | None, record: Mapping[bytes, bytes], cancelled: bool, clock: RedisClock
) -> JobStatus:
    """The status that these three pieces tell together.

    Args:
        meta: Celery's record of the task, if any.
        record: our own record of the job; empty when there is none.
        cancelled: whether the job was called off.
        clock: the one by which the record was written.
    """
    fields = {name.decode(): value.decode() for name, value in record.items()}
    state, error = _state(job_id, meta, fields, cancelled, clock.now())
    total = int(fields.get("total", 0))
    lane: Any = fields.get("lane")
    return JobStatus(
        job_id=job_id,
        state=state,
        scored=total if state == "done" else int(fields.get("scored", 0)),
        total=total,
        lane=lane,
        submitted_at=clock.to_ours(float(fields["submitted"])) if "submitted" in fields else None,
        attempts=int(fields.get("attempts", 0)),
        worker=fields.get("worker"),
        error=error,
    )


def _state(
    job_id: str, meta: bytes | None, fields: Mapping[str, str], cancelled: bool, now: float
) -> tuple[State, str | None]:
    if meta is not None and is_answer(meta):
        return _end_state(job_id, wire.decode(meta))
    if not fields:
        return "unknown", None
    if "answered" in fields and now - float(fields["answered"]) > ANSWER_IS_LATE_SECONDS:
        return "unknown", None  # it was answered once, and the answer has expired
    if cancelled:
        return "cancelled", None
    return ("running" if "started" in fields else "queued"), None


def _end_state(job_id: str, fields: Mapping[str, Any]) -> tuple[State, str | None]:
    if fields["status"] == "SUCCESS":
        return "done", None
    error = _error_in(job_id, fields)
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, Cancelled):
        return "cancelled", text
    if isinstance(error, DeadlineExceeded):
        return "expired", text
    if isinstance(error, JobFailed) and error.details.get("dead"):
        return "dead", text
    return "failed", text


def _error_in(job_id: str, fields: Mapping[str, Any]) -> RerankError:
    result: Mapping[str, Any] = fields["result"] or {}
    if fields["status"] == "REVOKED":
        return of_revoked(job_id, *result.get("exc_message") or (None,))
    return from_wire(str(result.get("exc_type")), result.get("exc_message") or ())


def _member(answer: Mapping[str, Any]) -> Ranking | RerankError:
    if "ranking" in answer:
        return Ranking.model_validate(answer["ranking"])
    error = answer["error"]
    return from_wire(error["type"], (error["message"], error.get("details")))
