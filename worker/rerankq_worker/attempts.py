"""What the Celery parent does with a message around its task: count, refuse, limit, set aside, try again.

The life of a failing job: its child, its worker or the engine is lost; the message comes back with a higher
`x-deliveries` after a pause; delivery number `max_attempts + 1` is not run but answered with `JobFailed`, and the
message lies with the dead letters. A message that is no job of ours (unreadable, unknown task, forbidden content)
goes there at once. A job whose answer could not be stored is tried again. Nothing that lies on a lane can end this
process or come back for ever.

Knows Celery's consumer; knows neither the engine nor what a job contains.
"""

import logging
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import redis
from billiard.einfo import ExceptionWithTraceback
from celery import Task
from celery.exceptions import BackendError, TimeLimitExceeded
from celery.worker import consumer as celery_consumer
from celery.worker import request as celery_request
from celery.worker.state import active_requests, reserved_requests, task_ready
from kombu.exceptions import OperationalError

from rerankq.contract import keys, transport
from rerankq.contract.dead_letters import DeadLetter, is_summary, letter_for
from rerankq.contract.errors import JobFailed, PayloadTooLarge, RerankError
from rerankq_worker.headers import (
    TimeLimits,
    bounded,
    is_id,
    seconds_until,
    with_those_of_the_body,
    wrong_header,
)

logger = logging.getLogger(__name__)

# What a broken Redis raises. KeyError is missing on purpose: kombu counts it among its connection errors, and a
# message without an id would then make the worker reconnect and fetch it again, for ever.
OUTAGE = (redis.ConnectionError, redis.TimeoutError, OperationalError, OSError)
# What keeps an answer from being stored: no Redis, a full one, or Celery's own word for either.
STORE_ERRORS = (*OUTAGE, redis.RedisError, BackendError)
ANSWER_AGAIN_SECONDS = 5.0
_LIMITS_UNSET = (None, None)


def _no_limits(queue: str) -> TimeLimits:  # noqa: ARG001 - the default of AttemptPolicy.time_limits
    return _LIMITS_UNSET


@dataclass(frozen=True, slots=True)
class AttemptPolicy:
    """How often a job may be tried, for how long each time, and how large it may be."""

    max_attempts: int = 3
    time_limits: Callable[[str], TimeLimits] = _no_limits
    """(soft, hard) seconds for a message from this queue; one that brings limits of its own can only lower them."""
    max_body_bytes: float = math.inf
    answer_failure: Callable[[str, Exception], None] | None = None
    """Tells the caller of this job id; None stores the error in Celery's result backend."""


def consumer_with(policy: AttemptPolicy) -> type["Consumer"]:
    """The class for `app.conf.worker_consumer`."""
    return type("Consumer", (Consumer,), {"policy": policy})


class Request(celery_request.Request):
    """A task in the parent. One whose answer could not be stored has not been answered and is tried again.

    Celery acknowledges such a task all the same, or raises out of its event loop and leaves the child alive.
    """

    _is_given_back = False

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        # Celery reports a hard limit here as well, would acknowledge before it answers, and tell it twice.
        raised = _raised(exc_info)
        if self._is_given_back or isinstance(raised, TimeLimitExceeded):
            return None
        if isinstance(raised, JobFailed) and raised.details.get("dead"):
            self._set_aside(raised)
        if isinstance(raised, STORE_ERRORS) and isinstance(self.task, AnsweringTask):
            return self._try_again(raised)
        try:
            return super().on_failure(exc_info, send_failed_event=send_failed_event, return_ok=return_ok)
        except STORE_ERRORS:
            return self._try_again(raised)

    def on_timeout(self, soft: bool, timeout: float) -> Any:
        try:
            return super().on_timeout(soft, timeout)
        except STORE_ERRORS as error:
            return self._try_again(error)

    def terminate(self, pool: Any, signal: Any = None) -> None:  # noqa: ARG002 - Celery's signature
        """Kill the child: one that survived another signal would answer again."""
        super().terminate(pool, "KILL")

    def info(self, safe: bool = False) -> dict[str, Any]:  # noqa: ARG002 - Celery's signature
        """What `celery inspect` prints of a job: its summary, never what its user wrote."""
        return super().info(safe=True)

    def _try_again(self, error: BaseException) -> None:
        """Give the message back: uncounted if Redis was away or full, for that is not the job's doing."""
        logger.warning("job %s: its answer could not be stored after %s", self.id, type(error).__name__)
        task_ready(self)
        self._is_given_back = True
        if self.acknowledged:
            return
        if _is_passing(error):
            self.message.channel.hand_back(self.message.delivery_tag, ANSWER_AGAIN_SECONDS)
            self.acknowledged = True
        else:
            self.reject(requeue=True)

    def _set_aside(self, error: JobFailed) -> None:
        """Keep the message of a job that was given up while it ran; its caller has been answered already."""
        message: Any = self.message
        qos = getattr(message.channel, "qos", None)
        if qos is None or self.acknowledged:  # the connection is away: nobody could keep it
            return
        qos.bury(message.delivery_tag, _letter(message, error))
        self.acknowledged = True


class AnsweringTask(Task):  # pyright: ignore[reportMissingTypeArgument]
    """A task that raises none of `STORE_ERRORS` itself: where one comes from its child, its answer was not stored.

    Celery's child would store that as the answer as soon as Redis is back, and its parent acknowledge it. It is none:
    the parent gives the message back, and the next attempt answers.
    """

    @property  # Celery's own can be set, and never is
    def backend(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The result backend, deaf to failures of itself."""
        return _Answers(self.app.backend)


class _Answers:
    def __init__(self, backend: Any) -> None:
        self._backend = backend

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def mark_as_failure(self, task_id: str, exc: BaseException, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(exc, STORE_ERRORS):
            self._backend.mark_as_failure(task_id, exc, *args, **kwargs)


def _is_passing(error: BaseException) -> bool:
    """Whether Redis was away or full, so that the same call may succeed later."""
    is_refusal = isinstance(error, redis.ResponseError) and not isinstance(error, redis.OutOfMemoryError)
    return isinstance(error, STORE_ERRORS) and not is_refusal


def _raised(exc_info: Any) -> BaseException:
    error = exc_info.exception
    return error.exc if isinstance(error, ExceptionWithTraceback) else error


class Consumer(celery_consumer.Consumer):
    """Celery's consumer with a guard before the task, and with jobs that outlive an outage of Redis."""

    policy: ClassVar[AttemptPolicy] = AttemptPolicy()
    app: Any
    event_dispatcher: Any

    def update_strategies(self) -> None:
        for task in self.app.tasks.values():
            task.Request = Request
        super().update_strategies()

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Any:
        receive = super().create_task_handler(*args, **kwargs)

        def receive_or_give_up(message: Any) -> None:
            try:
                message.headers = with_those_of_the_body(message.headers, message.payload)
                self._check(message)
                self._limit(message)
                _hide_text(message)
                if not _is_put_off(message):
                    receive(message)
            except RerankError as error:
                self._give_up(message, error)
            except OUTAGE:
                raise
            except Exception as error:  # noqa: BLE001 - the boundary: no message may end or stall the worker
                self._give_up(message, _unusable(message, f"reading it raised {type(error).__name__}"))

        return receive_or_give_up

    def on_connection_error_after_connected(self, exc: Exception) -> Any:
        waiting = {request for request in tuple(reserved_requests) if not request.acknowledged}
        running = waiting & set(active_requests)
        transport.carry_over(request.message for request in running)
        # What no child has taken yet, Celery throws out of its pool and would never run.
        transport.hand_back_later(request.message for request in waiting - running)
        with warnings.catch_warnings():
            # Celery advises to cancel running jobs here; ours are carried over.
            warnings.simplefilter("ignore", PendingDeprecationWarning)
            return super().on_connection_error_after_connected(exc)

    # -- Celery's own signals that a message is unusable

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        self._give_up(message, _unusable(message, f"its body cannot be decoded ({type(exc).__name__})"))

    def on_unknown_message(self, body: Any, message: Any) -> None:  # noqa: ARG002 - Celery's signature
        self._give_up(message, _unusable(message, "it is no task message"))

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:  # noqa: ARG002
        self._give_up(message, _unusable(message, "no worker here knows its task"))

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:  # noqa: ARG002
        self._give_up(message, _unusable(message, f"it is not acceptable ({type(exc).__name__})"))

    # -- ours

    def _check(self, message: Any) -> None:
        """Raise what the caller is to be told if this message must not run."""
        attempts = transport.deliveries(message.headers) - 1
        if attempts >= self.policy.max_attempts:
            raise JobFailed(
                f"given up after {attempts} attempts: the worker or the engine was lost each time; "
                f"`rerankq dead show {_id_of(message) or message.delivery_tag}` tells more",
                {"attempts": attempts, "where": "worker", "dead": True},
            )
        wrong = wrong_header(message.headers)
        if wrong:
            raise _unusable(message, f"its header {wrong} has the wrong type")
        if len(message.body) > self.policy.max_body_bytes:
            raise PayloadTooLarge(
                f"expected a message of at most {self.policy.max_body_bytes:,} bytes, got {len(message.body):,}"
            )

    def _limit(self, message: Any) -> None:
        """Hold a message to what its lane allows, which is the one it lay on, whatever its sender says."""
        queue = _queue_of(message)
        limits = bounded(message.headers.get("timelimit"), self.policy.time_limits(queue))
        message.headers = {**message.headers, "timelimit": limits}
        message.delivery_info = {**message.delivery_info, "routing_key": queue}

    def _give_up(self, message: Any, error: RerankError) -> None:
        """Answer with `error` and set the message aside; in this order, so that a crash between repeats both."""
        if message.acknowledged:
            return
        job_id, letter = _id_of(message), _letter(message, error)
        logger.error(
            "job %s on %s set aside after %d deliveries: %s", letter.id, letter.lane, letter.attempts, error
        )
        message._state = "REJECTED"
        if job_id and not self._answered(job_id, error):
            message.channel.hand_back(message.delivery_tag, ANSWER_AGAIN_SECONDS)
        else:
            message.channel.qos.bury(message.delivery_tag, letter)

    def _answered(self, job_id: str, error: RerankError) -> bool:
        """Whether the answer is stored; a full Redis refuses it, and then it is stored later."""
        try:
            self._answer(job_id, error)
        except redis.ResponseError:
            logger.exception("job %s: its answer was refused; next try in %g s", job_id, ANSWER_AGAIN_SECONDS)
            return False
        return True

    def _answer(self, job_id: str, error: RerankError) -> None:
        if self.policy.answer_failure:
            self.policy.answer_failure(job_id, error)
        else:
            self.app.backend.mark_as_failure(job_id, error)
        if self.event_dispatcher and self.event_dispatcher.enabled:
            self.event_dispatcher.send("task-failed", uuid=job_id, exception=repr(error), traceback="")


def _hide_text(message: Any) -> None:
    """Show Flower and the log a summary; what a stranger's client wrote there quotes the documents."""
    shown = message.headers.get("kwargsrepr")
    if not isinstance(shown, str) or not is_summary(shown):
        shown = f"bytes={len(message.body or b'')}"
    message.headers = {**message.headers, "argsrepr": "()", "kwargsrepr": shown, "shadow": None}


def _is_put_off(message: Any) -> bool:
    """Whether a message has been put back until its `eta`: Celery would hold any number of them in memory."""
    seconds = seconds_until(message.headers.get("eta"))
    if seconds > keys.JOB_TTL_SECONDS:
        raise _unusable(message, "its eta lies further ahead than a job is kept for")
    message.headers = {**message.headers, "eta": None}
    if seconds > 0:
        message._state = "REQUEUED"
        message.channel.hand_back(message.delivery_tag, seconds)
    return seconds > 0


def _unusable(message: Any, why: str) -> JobFailed:
    return JobFailed(
        f"the message is not usable: {why}; `rerankq dead show {_id_of(message) or message.delivery_tag}` tells more",
        {"attempts": 0, "where": "worker", "dead": True},
    )


def _letter(message: Any, error: Exception) -> DeadLetter:
    return letter_for(
        message.delivery_tag,
        _queue_of(message),
        message.body or b"",
        {"headers": message.headers},
        f"{type(error).__name__}: {error}",
    )


def _id_of(message: Any) -> str | None:
    job_id = message.headers.get("id")
    return job_id if is_id(job_id) else None


def _queue_of(message: Any) -> str:
    return str(message.delivery_info.get("queue", "unknown"))
