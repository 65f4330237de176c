"""Storing a job's answer, or knowing that it was not stored: then the job is not answered, and is tried again.

Knows Celery's result backend; no message and no lane.
"""

import logging
import os
import traceback
from collections.abc import Callable
from typing import Any, ClassVar, TypeAlias

import redis
from celery import Celery, Task, states
from celery.backends.redis import RedisBackend
from celery.exceptions import BackendError, TaskRevokedError
from kombu.exceptions import OperationalError

from rerankq.contract.errors import RerankError
from rerankq.contract.transport.outage import is_passing

logger = logging.getLogger(__name__)

# From the parent, which renews leases as well: one answer, and all that are due at one time.
STORE_AGAIN = {"timeout": 1.0, "interval_start": 0.0, "interval_step": 0.2, "interval_max": 0.2}


StoreAndFinish: TypeAlias = Callable[[str, bytes | str, int, str], bool]
"""Stores an answer and ends its job, in one step (`JobStore.answer`)."""


class AnswerNotStored(BackendError):
    """Whatever was raised while an answer was stored: the job has not been answered."""

    def __init__(self, cause: str, is_passing: bool) -> None:
        super().__init__(cause, is_passing)
        self.cause = cause
        """What kind of error it was; its text may quote the answer."""
        self.is_passing = is_passing
        """Redis was away or full, which is not the job's doing."""

    @classmethod
    def after(cls, error: BaseException) -> "AnswerNotStored":
        """What is told of whatever was raised while an answer was stored."""
        # Celery's own word for a Redis that stayed away, and for a value that is too large: only one has a cause.
        cause = error.__cause__ if isinstance(error, BackendError) else error
        return cls(type(cause or error).__name__, is_passing(cause))


# What no `AnsweringTask` raises itself: where one of these comes from its child, something around the task raised it.
NO_ANSWER = (BackendError, redis.RedisError, OperationalError)


class AnsweringTask(Task):  # pyright: ignore[reportMissingTypeArgument]
    """A task that raises none of `NO_ANSWER` itself: where one comes from its child, its answer was not stored.

    Celery's child would store that as the answer as soon as Redis is back, and its parent acknowledge it. It is none:
    the parent gives the message back, and the next attempt answers.
    """

    @property  # Celery's own can be set, and never is
    def backend(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The result backend, deaf to failures of itself."""
        return Answers(self.app)


class Answers:
    """A result backend that raises nothing but `AnswerNotStored` while it stores an answer."""

    parents: ClassVar[tuple[int, Any]] = (0, None)
    """The Celery parent's process id, and a backend of its own."""
    child: ClassVar[Any] = None
    """A backend of the Celery child, where answers lie beside the records of jobs."""

    def __init__(self, app: Celery) -> None:
        self._app = app

    @classmethod
    def in_parent(cls, app: Celery) -> None:
        """Answers of this process are those of Celery's parent from now on: it must not wait."""
        cls.parents = (os.getpid(), _hasty(app))

    @classmethod
    def is_in_parent(cls) -> bool:
        """Whether this process is Celery's parent."""
        return cls.parents[0] == os.getpid()

    @classmethod
    def in_child(cls, app: Celery, broker: str, store: StoreAndFinish) -> bool:
        """Have answers of this process, a Celery child, end their jobs in the same step; False where that cannot be.

        Args:
            broker: the Redis with the records of jobs, as Celery is told of it.
        """
        is_beside = type(app.backend) is RedisBackend and app.backend.url == broker
        cls.child = _StoringOnce(store, app=app, url=broker) if is_beside else None
        return is_beside

    @property
    def _backend(self) -> Any:
        return self.parents[1] if self.is_in_parent() else self.child or self._app.backend

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def mark_as_done(self, *args: Any, **kwargs: Any) -> None:
        self._store("mark_as_done", *args, **kwargs)

    def mark_as_revoked(self, task_id: str, reason: str = "", request: Any = None, **kwargs: Any) -> None:
        # Celery's own ends the chord alone, and leaves whoever waits for a chain to wait.
        error = TaskRevokedError(reason)
        self._store("mark_as_failure", task_id, error, request=request, state=states.REVOKED, **kwargs)

    def mark_as_failure(self, task_id: str, exc: BaseException, *args: Any, **kwargs: Any) -> None:
        if not isinstance(exc, NO_ANSWER):
            self._store("mark_as_failure", task_id, exc, *args, **kwargs)

    def end(self, task_id: str, error: RerankError, attached: Any) -> None:
        """Store the end of a job that did not run, and with it that of what is attached, where that can be used."""
        try:
            self.mark_as_failure(task_id, error, request=attached)
        except AnswerNotStored as reason:
            if reason.is_passing or attached is None:
                raise
            self.mark_as_failure(task_id, error)

    def has_ranking(self, task_id: str) -> bool:
        """Whether an earlier attempt has stored one; False where that cannot be told."""
        try:
            return self._backend.get_task_meta(task_id, cache=False)["status"] == states.SUCCESS
        except Exception:  # noqa: BLE001 - a backend's own, whatever they are
            return False

    def _store(self, how: str, *args: Any, **kwargs: Any) -> None:
        try:
            getattr(self._backend, how)(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - the boundary: whatever it was, nothing is stored
            reason = AnswerNotStored.after(error)
            if not reason.is_passing:
                # Where it happened, not what it says: an exception's own text may carry the answer.
                where = "".join(traceback.format_tb(error.__traceback__))
                logger.error("storing an answer raised %s\n%s", reason.cause, where)
            raise reason from None


class _StoringOnce(RedisBackend):
    """Celery's own, but that a ranking is stored where none is in one step, and the job's record ended in the same."""

    def __init__(self, store: StoreAndFinish, **options: Any) -> None:
        super().__init__(**options)
        self._store = store

    def _store_result(
        self,
        task_id: str,
        result: Any,
        state: str,
        traceback: Any = None,
        request: Any = None,
        **options: Any,
    ) -> Any:
        if state == states.SUCCESS and not (request and request.chord):
            meta = self._get_result_meta(result, state, traceback, request) | {"task_id": task_id}
            key, body, seconds = self.get_key_for_task(task_id).decode(), self.encode(meta), self.expires
            try:
                if self._store(key, body, int(seconds or 0), task_id):
                    return result
            except redis.ResponseError:
                pass  # it is Celery's way that tells what is wrong
        return super()._store_result(task_id, result, state, traceback, request, **options)


def _hasty(app: Celery) -> Any:
    """A result backend for the parent: while it waits for a Redis that is away, nobody renews this worker's leases."""
    backend: Any = app._get_backend()  # pyright: ignore[reportPrivateUsage] - `app.backend` is one for all
    backend.max_retries, backend.retry_policy = 0, STORE_AGAIN
    parameters = getattr(backend, "connparams", {})
    timeouts = {"socket_timeout", "socket_connect_timeout"} & set(parameters)  # a unix socket takes but one
    parameters |= dict.fromkeys(timeouts, STORE_AGAIN["timeout"])
    return backend
