"""What stands in for Redis and the workers behind a fake client: it answers each message as it comes.

What is checked before anything is sent, and what is read from an answer, is the real clients' own code. Answers lie
here as they would in Redis, so that a job is done, failed, dead or expired by the rule that holds there.
"""

from collections import deque
from dataclasses import dataclass
from typing import Any

from rerankq.answers import JobStatus, is_lost, read_status
from rerankq.contract import wire
from rerankq.contract.clock import RedisClock
from rerankq.contract.errors import (
    BrokerUnavailable,
    Cancelled,
    InvalidRequest,
    InvalidSettings,
    JobUnknown,
    NoWorkers,
    QueueFull,
    RerankError,
    ResultTimeout,
    to_wire,
)
from rerankq.contract.messages import Ranking, RerankRequest
from rerankq.contract.wire import PACK_TASK
from rerankq.settings import ClientSettings
from rerankq.submission import Submission, check_size, of_another_request
from rerankq.testing.overlap import answer

_REFUSALS = (InvalidRequest, QueueFull, NoWorkers, BrokerUnavailable, InvalidSettings)


@dataclass(frozen=True, slots=True)
class _AnsweredJob:
    """A job that was answered."""

    message: Submission
    meta: bytes
    """Celery's record of its end."""


class StandIn:
    """What a fake client was asked, and what it has answered."""

    def __init__(self, settings: ClientSettings, clock: RedisClock) -> None:
        self.calls: list[RerankRequest] = []
        self.failures: deque[RerankError] = deque()
        self._settings = settings
        self._clock = clock
        self._held: dict[str, _AnsweredJob] = {}
        self._late: dict[str, ResultTimeout] = {}
        self._called_off: set[str] = set()

    def meta(self, job_id: str) -> bytes:
        """Celery's record of a job's end.

        Raises:
            JobUnknown, Cancelled, ResultTimeout
        """
        late, held = self._late.pop(job_id, None), self._held.get(job_id)
        if late is not None:
            raise late
        if held is not None:
            return held.meta
        if job_id in self._called_off:
            raise Cancelled(f"job {job_id} was cancelled")
        raise JobUnknown(f"job {job_id} is not known; it never was, or its answer has expired")

    def status(self, job_id: str) -> JobStatus:
        """Where a job stands."""
        held = self._held.get(job_id)
        told = {} if held is None else held.message.record()
        record = {name.encode(): str(value).encode() for name, value in told.items()}
        return read_status(job_id, held and held.meta, record, job_id in self._called_off, self._clock)

    def call_off(self, job_id: str) -> None:
        """Nobody wants this job; one that is answered stays so."""
        if job_id not in self._held:
            self._called_off.add(job_id)

    def deliver(self, message: Submission) -> None:
        """Answer the message now.

        Raises:
            InvalidRequest: the job id belongs to another request.
            RerankError: the next failure is one that refuses.
        """
        job_id = message.job_id
        check_size(message, self._settings.max_payload_bytes)
        self.calls += message.requests
        failure = self.failures.popleft() if self.failures else None
        if isinstance(failure, _REFUSALS):
            raise failure
        known = self._held.get(job_id)
        if known is None or is_lost(known.meta):  # what Redis lost is made anew
            self._called_off.discard(job_id)
            self._held[job_id] = _AnsweredJob(message, self._answered(message, failure))
        elif known.message.fingerprint != message.fingerprint:
            raise of_another_request(job_id)

    def _answered(self, message: Submission, failure: RerankError | None) -> bytes:
        if isinstance(failure, ResultTimeout):
            self._late[message.job_id], failure = failure, None
        answers = [answer(message.job_id, request) for request in message.requests]
        if failure is None and message.task == PACK_TASK:
            return _succeeded({"answers": [_member(member) for member in answers]})
        end = failure or answers[0]
        return _failed(end) if isinstance(end, RerankError) else _succeeded(end.model_dump())


def _succeeded(result: dict[str, Any]) -> bytes:
    return wire.encode({"status": "SUCCESS", "result": result})


def _failed(error: RerankError) -> bytes:
    told = {"exc_type": type(error).__name__, "exc_message": [error.message, error.details]}
    return wire.encode({"status": "FAILURE", "result": told})


def _member(answer: Ranking | RerankError) -> dict[str, Any]:
    return {"ranking": answer.model_dump()} if isinstance(answer, Ranking) else {"error": to_wire(answer)}
