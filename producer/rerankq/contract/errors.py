"""What can go wrong, drawn as a tree; each error crosses the queue as itself.

    RerankError
    ├── InvalidRequest        the request is wrong: never retry it as it is
    │   └── PayloadTooLarge   it is over a limit on documents, characters or bytes
    ├── QueueFull             refused at admission; try again after `retry_after_seconds`
    ├── NoWorkers             nobody is there to answer; try again later
    ├── DeadlineExceeded      the job's time ran out
    ├── ResultTimeout         the caller's own wait ran out; the job goes on
    ├── JobFailed             the job was tried and given up; `attempts`, `where`
    ├── JobUnknown            no such job, or its answer has expired
    ├── Cancelled             somebody called the job off
    ├── BrokerUnavailable     Redis did not answer; nothing was accepted
    └── InvalidSettings       this process is configured wrongly

An error keeps all it knows in `args`, because that is what Celery's result backend carries.
"""

from collections.abc import Mapping
from typing import Any


class RerankError(Exception):
    """Anything rerankq raises on purpose. `retryable` tells "never again" from "try again"."""

    retryable: bool = False

    def __init__(self, message: str, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message, dict(details or {}))

    @property
    def message(self) -> str:
        """The situation, the value and the way out, in one line."""
        return str(self.args[0])

    @property
    def details(self) -> dict[str, Any]:
        """What a program may want to read: numbers, ids, indices; never a user's text."""
        return self.args[1]

    def __str__(self) -> str:
        return self.message


class InvalidRequest(RerankError):
    """The request breaks the contract; `details["field"]` says where."""


class PayloadTooLarge(InvalidRequest):
    """More documents, characters or bytes than the settings allow."""


class QueueFull(RerankError):
    """The lane is full; nothing was accepted."""

    retryable = True

    @property
    def retry_after_seconds(self) -> float:
        """How long the work ahead will take, as far as is known."""
        return float(self.details.get("retry_after_seconds", 1.0))


class NoWorkers(RerankError):
    """No worker has been heard of lately; nothing was accepted."""

    retryable = True


class DeadlineExceeded(RerankError):
    """The job's deadline or time limit passed before every document was scored."""


class ResultTimeout(RerankError):
    """The answer was not there within the wait; the job itself goes on."""

    retryable = True


class JobFailed(RerankError):
    """The job was tried and given up, or lost with the broker's memory of it, and then best sent again."""

    def __init__(self, message: str, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message, details)
        self.retryable = self.where == "broker"

    @property
    def attempts(self) -> int:
        """How often it was started."""
        return int(self.details.get("attempts", 1))

    @property
    def where(self) -> str:
        """Which part gave up: `job`, `engine`, `worker`, or `broker` where Redis lost the job."""
        return str(self.details.get("where", "job"))


class JobUnknown(RerankError):
    """No job of this id is known: it never was, or its answer has expired."""


class Cancelled(RerankError):
    """The job was called off before it was done."""


class BrokerUnavailable(RerankError):
    """Redis could not be reached or did not answer in time."""

    retryable = True


class InvalidSettings(RerankError):
    """A setting is misspelt, missing or out of bounds."""


def _tree(root: type[RerankError]) -> dict[str, type[RerankError]]:
    names = {root.__name__: root}
    for child in root.__subclasses__():
        names |= _tree(child)
    return names


BY_NAME: dict[str, type[RerankError]] = _tree(RerankError)


def to_wire(error: RerankError) -> dict[str, Any]:
    """The error as plain JSON: `{type, message, details}`."""
    return {"type": type(error).__name__, "message": error.message, "details": error.details}


def from_wire(type_name: str, arguments: tuple[Any, ...] | list[Any]) -> RerankError:
    """The error of that name, or a `JobFailed` naming it when it is none of ours (say, a broken worker)."""
    known = BY_NAME.get(type_name)
    if known is not None:
        message = next((part for part in arguments if isinstance(part, str)), "it does not say why")
        return known(message, next((part for part in arguments if isinstance(part, dict)), None))
    if type_name in ("TimeLimitExceeded", "SoftTimeLimitExceeded"):
        return DeadlineExceeded("the worker's hard time limit ended the job", {"limit": "hard"})
    return JobFailed(f"the worker raised {type_name}; its log has the traceback", {"where": "worker"})


def of_revoked(job_id: str, reason: object) -> RerankError:
    """What a job's end by Celery's own hand means: one word for too late and for called off, told by the reason."""
    if reason == "expired":
        return DeadlineExceeded(f"job {job_id} was not started before its deadline", {"started": False})
    return Cancelled(f"job {job_id} was called off by an operator")
