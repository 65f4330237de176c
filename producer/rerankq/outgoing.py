"""Turn validated requests into the message that is put on a lane. No I/O: both clients share it."""

import hashlib
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rerankq.contract import keys, wire
from rerankq.contract.clock import RedisClock
from rerankq.contract.errors import InvalidRequest, PayloadTooLarge
from rerankq.contract.messages import Lane, RerankRequest, thousands
from rerankq.contract.transport.envelope import PAYLOAD_HEADER, RECORD_HEADER, Envelope
from rerankq.contract.transport.publishing import task_message
from rerankq.contract.wire import PACK_TASK, RERANK_TASK

# A job keeps its deadline by itself, between batches; Celery's limits are there should it fail to.
SOFT_LIMIT_MARGIN_SECONDS = 1.0
HARD_LIMIT_MARGIN_SECONDS = 3.0
_JOB_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message, ready to be sent."""

    job_id: str
    task: str
    lane: Lane
    fields: bytes
    """The task's keyword arguments as they travel, in JSON."""
    summary: str
    documents: int
    submitted: float
    """Unix seconds, by Redis's clock; so is the deadline."""
    deadline: float | None
    fingerprint: str
    body_bytes: int
    payload: bytes | None
    compress: bool

    @property
    def queue(self) -> str:
        """The list it is put on."""
        return keys.queue_of(self.lane)

    def message(self) -> Envelope:
        """What is put there."""
        headers: dict[str, Any] = {
            RECORD_HEADER: keys.job(self.job_id),
            **_time_limits(self.submitted, self.deadline),
        }
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

    def record(self) -> dict[Any, Any]:
        """What `status` can tell of the job before any worker has seen it."""
        record: dict[str, str | int | float] = {
            "lane": self.lane,
            "total": self.documents,
            "fingerprint": self.fingerprint,
            "submitted": self.submitted,
        }
        return record if self.deadline is None else {**record, "deadline": self.deadline}


def outgoing_job(request: RerankRequest, job_id: str | None, clock: RedisClock) -> Outgoing:
    """The message of one request, its deadline turned from the caller's clock to Redis's.

    Raises:
        InvalidRequest: the job id cannot be one.
    """
    timed = _by_redis(request, clock)
    return _outgoing(
        _checked_id(job_id), RERANK_TASK, timed.to_wire(), [timed], request.summary(), clock.now()
    )


def outgoing_pack(requests: Sequence[RerankRequest], pack_id: str | None, clock: RedisClock) -> Outgoing:
    """One message for several requests; each succeeds or fails by itself.

    Raises:
        InvalidRequest: the pack is empty, or its id cannot be one.
    """
    if not requests:
        raise InvalidRequest("expected a pack of at least one request, got none")
    documents, characters = sum(len(r.documents) for r in requests), sum(r.characters for r in requests)
    summary = f"pack={len(requests)} docs={documents} chars={thousands(characters)}"
    timed = [_by_redis(request, clock) for request in requests]
    kwargs = {"requests": [request.to_wire() for request in timed]}
    return _outgoing(_checked_id(pack_id), PACK_TASK, kwargs, timed, summary, clock.now())


def new_job_id() -> str:
    """A name nobody has used."""
    return uuid.uuid4().hex


def check_size(message: Outgoing, max_bytes: int) -> None:
    """Refuse a message that a worker would refuse to unpack.

    Raises:
        PayloadTooLarge: naming both sizes.
    """
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


def _outgoing(
    job_id: str,
    task: str,
    kwargs: dict[str, Any],
    requests: Sequence[RerankRequest],
    summary: str,
    now: float,
) -> Outgoing:
    body = wire.encode(kwargs)
    deadlines = [request.deadline for request in requests if request.deadline is not None]
    as_claim_check = len(body) > wire.CLAIM_CHECK_ABOVE_BYTES
    return Outgoing(
        job_id=job_id,
        task=task,
        lane=requests[0].lane,
        fields=wire.encode({"payload": keys.payload(job_id)}) if as_claim_check else body,
        summary=summary,
        documents=sum(len(request.documents) for request in requests),
        submitted=now,
        deadline=max(deadlines) if len(deadlines) == len(requests) else None,
        fingerprint=hashlib.blake2b(_timeless(requests), digest_size=16).hexdigest(),
        body_bytes=len(body),
        payload=wire.compress(body) if as_claim_check else None,
        compress=not as_claim_check and len(body) > wire.COMPRESS_ABOVE_BYTES,
    )


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
