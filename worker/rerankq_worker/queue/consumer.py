"""What the Celery parent does with a message around its task: count, refuse, limit, set aside, try again.

The life of a failing job: its child, its worker or the engine is lost, or its answer cannot be stored; the message
comes back with a higher `x-deliveries` after a pause; delivery number `max_attempts + 1` is not run: the message lies
with the dead letters, and its caller is told `JobFailed`, now or as soon as that can be stored. A message that is no
job of ours (unreadable, unknown task, forbidden content) goes there at once. One that names another model than is
served here is handed on to that model's list, and its delivery is not counted. Nothing that lies on a lane can end this
process or come back for ever.

Knows Celery's consumer; knows neither the engine nor what a job contains.
"""

import logging
import math
import re
import time
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import redis
from billiard.einfo import ExceptionWithTraceback
from celery.exceptions import Reject, TimeLimitExceeded, WorkerLostError
from celery.worker import consumer as celery_consumer
from celery.worker import request as celery_request
from celery.worker.state import active_requests, maybe_shutdown, reserved_requests, task_ready
from kombu.exceptions import OperationalError

from rerankq.contract import keys
from rerankq.contract.errors import JobFailed, PayloadTooLarge, RerankError
from rerankq.contract.keys import lane_of
from rerankq.contract.messages import Lane
from rerankq.contract.totals import Outcome, outcome_of
from rerankq.contract.transport.dead_letters import DeadLetter, DeadLetters, is_summary, letter_for, unusable
from rerankq.contract.transport.envelope import job_id
from rerankq.contract.transport.hooks import hooks
from rerankq.contract.transport.outage import UNREACHABLE, carry_over, hand_back_later, outage
from rerankq_worker.queue.answers import NO_ANSWER, AnsweringTask, AnswerNotStored, Answers
from rerankq_worker.queue.canvas import attached_to
from rerankq_worker.queue.events import Batches
from rerankq_worker.queue.headers import (
    TimeLimits,
    bounded,
    is_task_body,
    seconds_until,
    with_those_of_the_body,
    wrong_header,
)
from rerankq_worker.queue.job_log import JobLine, note_dead

logger = logging.getLogger(__name__)

_HOW_IT_DIED = re.compile(r"signal \d+ \(\w+\)|exitcode -?\d+")
ANSWER_AGAIN_SECONDS = 5.0
CONNECT_AGAIN_SECONDS = 0.5
TELL_FOR_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class AttemptPolicy:
    """For how long a job may be tried each time, and how large it may be; how often is for the transport."""

    time_limits: Callable[[str], TimeLimits] = lambda _: (None, None)
    """(soft, hard) seconds for a message from this queue; one that brings limits of its own can only lower them."""
    max_body_bytes: float = math.inf
    on_end: Callable[[str, Outcome, Lane | None], None] | None = None
    """Called for a job that was set aside once its error is stored as its answer: its id, how it ended, its lane."""


def consumer_with(policy: AttemptPolicy) -> type["Consumer"]:
    """The class for `app.conf.worker_consumer`."""
    return type("Consumer", (Consumer,), {"policy": policy})


class HandOn(Reject):
    """Raised in the child: the job belongs on the queue that is its reason, where workers of its model take it."""


class JobInParent(celery_request.Request):
    """A job as Celery's parent sees it, a request in its words. Where its answer could not be stored it is tried again.

    Celery acknowledges such a task all the same, or raises out of its event loop and leaves the child alive.
    """

    _is_given_back = False
    _is_storing = False
    _is_ack_due = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for decoded in ("args", "kwargs"):  # which would go through the pipe twice: the child reads the body
            del self._request_dict[decoded]

    def acknowledge(self) -> None:
        """Let the message go; while its answer is being stored, only afterwards."""
        if self._is_storing:
            self._is_ack_due = True
        else:
            super().acknowledge()

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        # Celery reports a hard limit here as well, would acknowledge before it answers, and tell it twice.
        raised = _raised(exc_info)
        if self._is_given_back or isinstance(raised, TimeLimitExceeded):
            return
        if isinstance(raised, HandOn):
            self._hand_on(str(raised.reason))
            return
        with self._or_again():
            if isinstance(raised, JobFailed) and raised.details.get("dead"):
                self._set_aside(raised)
            if isinstance(raised, NO_ANSWER) and isinstance(self.task, AnsweringTask):
                raise raised
            super().on_failure(exc_info, send_failed_event=send_failed_event, return_ok=return_ok)
        if isinstance(raised, WorkerLostError) and not self._is_given_back:
            died = _HOW_IT_DIED.search(str(raised))
            self._line.end("lost", error=raised, why=died and died[0])

    def on_timeout(self, soft: bool, timeout: float) -> Any:
        with self._or_again():
            super().on_timeout(soft, timeout)
        if not soft and not self._is_given_back:
            self._line.end("expired", error=TimeLimitExceeded(timeout), why=f"killed after {timeout:g} s")

    def terminate(self, pool: Any, signal: Any = None) -> None:  # noqa: ARG002 - Celery's signature
        """Kill the child: one that survived another signal would answer again."""
        super().terminate(pool, "KILL")

    def info(self, safe: bool = False) -> dict[str, Any]:  # noqa: ARG002 - Celery's signature
        """What `celery inspect` prints of a job: its summary, never what its user wrote."""
        return super().info(safe=True)

    def _announce_revoked(self, *args: Any, **kwargs: Any) -> None:
        with self._or_again():
            super()._announce_revoked(*args, **kwargs)
        self._already_revoked = True  # whatever comes of its answer, it is not run here
        if not self._is_given_back:
            self._line.end("expired" if kwargs.get("expired") or args[3:] == (True,) else "cancelled")

    @contextmanager
    def _or_again(self) -> Generator[None]:
        """Give the message back if its answer cannot be stored, whatever is raised by the attempt."""
        self._is_storing = True
        try:
            yield
        except Exception as error:  # noqa: BLE001 - the boundary: a job that is not answered must not be let go
            self._is_storing = False
            self._try_again(error)
        else:
            self._is_storing = False
            if self._is_ack_due:
                self.acknowledge()

    def _try_again(self, error: Exception) -> None:
        """Give the message back: uncounted if Redis was away or full, for that is not the job's doing."""
        reason = error if isinstance(error, AnswerNotStored) else AnswerNotStored.after(error)
        self._line.end("given_back", why=f"its answer could not be stored after {reason.cause}")
        task_ready(self)
        self._is_given_back = True
        if not self.acknowledged:
            _give_back(self.message, reason)
            self.acknowledged = True

    def _hand_on(self, queue: str) -> None:
        """Put the message where workers of its model look; back, and not at once, where that is here."""
        task_ready(self)
        if self.acknowledged:
            return
        if queue == _queue_of(self.message):
            self.message.hand_back(ANSWER_AGAIN_SECONDS)  # the engine has changed since it was taken
            self._line.end("given_back", why="the engine changed its model")
        else:
            self.message.hand_on(queue)
            self._line.end("handed_on", why=f"it is for another model, by {queue}")
        self.acknowledged = True
        self.send_event("task-rejected", requeue=True)

    @property
    def _line(self) -> JobLine:
        line = JobLine.of(self.id, _queue_of(self.message), self.hostname, self.message.headers)
        ran_s = max(time.time() - self.time_start, 0.0) if self.time_start else None
        line.began = None if ran_s is None else time.perf_counter() - ran_s
        return line

    def _set_aside(self, error: JobFailed) -> None:
        """Keep the message of a job that was given up while it ran; its caller has been answered already."""
        if not self.acknowledged:
            self.message.set_aside(_letter(self.message, error))
            self.acknowledged = True


def _give_back(message: Any, reason: AnswerNotStored) -> None:
    if reason.is_passing:
        message.hand_back(ANSWER_AGAIN_SECONDS)
    elif not message.acknowledged:  # of one that is, kombu raises
        message.requeue()


def _raised(exc_info: Any) -> BaseException:
    error = exc_info.exception
    return error.exc if isinstance(error, ExceptionWithTraceback) else error


class Consumer(celery_consumer.Consumer):
    """Celery's consumer with a guard before the task, and with jobs that outlive an outage of Redis."""

    policy: ClassVar[AttemptPolicy] = AttemptPolicy()
    app: Any
    event_dispatcher: Any
    task_consumer: Any
    first_connection_attempt: bool

    def __init__(self, *args: Any, hub: Any = None, **kwargs: Any) -> None:
        self._batches = hub and Batches(hub, self._flush_events, _is_handing_over)
        super().__init__(*args, hub=hub, **kwargs)

    def update_strategies(self) -> None:
        Answers.in_parent(self.app)
        for task in self.app.tasks.values():
            task.Request = JobInParent
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
                self._set_aside(message, error)
            except AnswerNotStored as error:
                _give_back(message, error)
            except UNREACHABLE:
                raise
            except Exception as error:  # noqa: BLE001 - the boundary: no message may end or stall the worker
                self._set_aside(message, _unusable(message, f"reading it raised {type(error).__name__}"))

        return receive_or_give_up

    def ensure_connected(self, conn: Any) -> Any:
        """The connection, as soon as Redis is there and takes writes: a replica, say, is as good as none."""
        while True:
            maybe_shutdown()
            try:
                conn.ensure_connection(max_retries=0)
                channel = conn.default_channel
                with channel.conn_or_acquire() as client:
                    channel.leases.probe(client)
            except (*conn.connection_errors, *conn.channel_errors, OperationalError) as error:
                outage.note(error)
                conn.collect()
                time.sleep(CONNECT_AGAIN_SECONDS)
            else:
                outage.is_over()
                self.first_connection_attempt = False
                return conn

    def register_with_event_loop(self, hub: Any) -> None:
        super().register_with_event_loop(hub)
        hooks.tell, hooks.note_dead = self._tell, partial(note_dead, self.hostname)
        hub.call_repeatedly(ANSWER_AGAIN_SECONDS, self._tell_the_untold)

    def on_send_event_buffered(self) -> None:
        if self._batches:
            self._batches.gather()

    def stop(self) -> None:
        """Publish first: afterwards the worker says that it is offline, and what it tells then is not its own."""
        self._flush_events()
        super().stop()

    def shutdown(self) -> None:
        """Publish what was told while the children ended their jobs."""
        self._flush_events()
        super().shutdown()

    def on_connection_error_after_connected(self, exc: Exception) -> Any:
        waiting = {request for request in tuple(reserved_requests) if not request.acknowledged}
        running = waiting & set(active_requests)
        carry_over(request.message for request in running)
        # What no child has taken yet, Celery throws out of its pool and would never run.
        hand_back_later(request.message for request in waiting - running)
        with warnings.catch_warnings():
            # Celery advises to cancel running jobs here; ours are carried over.
            warnings.simplefilter("ignore", PendingDeprecationWarning)
            return super().on_connection_error_after_connected(exc)

    # -- Celery's own signals that a message is unusable

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        self._set_aside(message, _unusable(message, f"its body cannot be decoded ({type(exc).__name__})"))

    def on_unknown_message(self, body: Any, message: Any) -> None:  # noqa: ARG002 - Celery's signature
        self._set_aside(message, _unusable(message, "it is no task message"))

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:  # noqa: ARG002 - likewise
        self._set_aside(message, _unusable(message, "no worker here knows its task"))

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:  # noqa: ARG002 - likewise
        self._set_aside(message, _unusable(message, f"it is not acceptable ({type(exc).__name__})"))

    # -- ours

    def _check(self, message: Any) -> None:
        """Raise what the caller is to be told if this message must not run."""
        wrong = wrong_header(message.headers)
        if wrong:
            raise _unusable(message, f"its header {wrong} has the wrong type")
        if len(message.body) > self.policy.max_body_bytes:
            raise PayloadTooLarge(
                f"expected a message of at most {self.policy.max_body_bytes:,} bytes, got {len(message.body):,}"
            )
        if "task" in message.headers and not is_task_body(message.payload):
            raise _unusable(message, "its body is not that of a task")

    def _limit(self, message: Any) -> None:
        """Hold a message to what its lane allows, which is the one it lay on, whatever its sender says."""
        queue = _queue_of(message)
        limits = bounded(message.headers.get("timelimit"), self.policy.time_limits(queue))
        message.headers = {**message.headers, "timelimit": limits}
        message.delivery_info = {**message.delivery_info, "routing_key": queue}

    def _set_aside(self, message: Any, error: RerankError) -> None:
        """Move the message to the dead letters and tell its caller, now or later."""
        if message.acknowledged:
            return
        if not message.channel.qos.holds(message.delivery_tag):
            logger.debug("a message from another application is left unread: %s", error)
            return
        untold = error if job_id(_as_envelope(message)) else None
        message.set_aside(_letter(message, error), untold)

    def _tell_the_untold(self) -> None:
        """Tell who could not be told when their jobs were set aside, by this worker or another."""
        give_up_at = time.monotonic() + TELL_FOR_SECONDS
        try:
            for job, error in self._letters().untold():
                self._answer(job, error)
                if time.monotonic() >= give_up_at:
                    return
        except Exception as error:  # noqa: BLE001 - the boundary: told when it was set aside, and tried again
            logger.debug("some jobs' callers are told later: %s", type(error).__name__)

    def _tell(self, job: str, error: RerankError) -> None:
        try:
            self._answer(job, error)
        except Exception as raised:  # noqa: BLE001 - the boundary: whatever it is, the job is noted as untold
            cause = raised.cause if isinstance(raised, AnswerNotStored) else type(raised).__name__
            logger.warning("job %s: that it was set aside could not be stored (%s); told later", job, cause)

    def _answer(self, job: str, error: RerankError) -> None:
        answers, letters = Answers(self.app), self._letters()
        is_done = answers.has_ranking(job)  # lost at its last attempt, after it was answered
        if not is_done:
            channel, accept = self.task_consumer.channel, self.app.conf.accept_content
            attached = attached_to(job, letters.message(job), channel, accept)
            answers.end(job, error, attached)
        if self.policy.on_end:
            letter = letters.show(job)
            self.policy.on_end(job, outcome_of(None if is_done else error), letter and lane_of(letter.lane))
        letters.settle(job)
        if self.event_dispatcher and self.event_dispatcher.enabled:
            self.event_dispatcher.send("task-failed", uuid=job, exception=repr(error), traceback="")

    def _letters(self) -> DeadLetters:
        channel = self.task_consumer.channel
        return DeadLetters(redis.Redis(connection_pool=channel.pool), channel.global_keyprefix)


def _is_handing_over() -> bool:
    """Whether a job was taken that no child has yet."""
    return len(reserved_requests) > len(active_requests)


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
        message.hand_back(seconds)
    return seconds > 0


def _unusable(message: Any, why: str) -> JobFailed:
    return unusable(job_id(_as_envelope(message)) or message.delivery_tag, why)


def _letter(message: Any, error: RerankError) -> DeadLetter:
    return letter_for(
        message.delivery_tag, _queue_of(message), message.body or b"", _as_envelope(message), error
    )


def _as_envelope(message: Any) -> dict[str, Any]:
    return {"headers": message.headers, "properties": message.properties}


def _queue_of(message: Any) -> str:
    return str(message.delivery_info.get("queue", "unknown"))
