"""The Celery side: two tasks, their limits, the answer. Never imports torch.

`celery -A rerankq_worker.app worker --pool prefork --concurrency 1` runs it under a process manager of your own,
beside `rerankq-worker --engine-only`; `celery -A rerankq_worker.app flower --read_only=true` shows it.
"""

import contextlib
import logging
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from billiard.exceptions import SoftTimeLimitExceeded
from celery import Celery, Task, states
from celery.exceptions import Ignore, Reject
from celery.signals import (
    celeryd_init,
    task_failure,
    task_revoked,
    task_success,
    worker_process_init,
    worker_process_shutdown,
)
from kombu.entity import Exchange, Queue
from redis.exceptions import RedisError

from rerankq.contract import wire
from rerankq.contract.address import read_address
from rerankq.contract.broker import celery_app
from rerankq.contract.errors import (
    Cancelled,
    DeadlineExceeded,
    InvalidRequest,
    InvalidSettings,
    JobFailed,
    RerankError,
    of_revoked,
    to_wire,
)
from rerankq.contract.keys import lane_of, queue_of
from rerankq.contract.messages import LANES, Lane, Ranking
from rerankq.contract.redis_clients import redis_client
from rerankq.contract.totals import Outcome, of_delivery, outcome_of
from rerankq.contract.transport.envelope import deliveries
from rerankq.contract.transport.hooks import hooks
from rerankq.contract.wire import PACK_TASK, RERANK_TASK
from rerankq_worker.job.runner import Attempt, ForAnotherModel, JobRunner, Superseded, stop_time
from rerankq_worker.job.store import JobRecord, JobStore
from rerankq_worker.link.client import EngineAway, EngineChanged, EngineClient
from rerankq_worker.model.files import ModelError, find_model
from rerankq_worker.model.tokenizer import PairTokenizer
from rerankq_worker.queue import job_spans
from rerankq_worker.queue.answers import NO_ANSWER, AnsweringTask, AnswerNotStored, Answers
from rerankq_worker.queue.canvas import fields_of
from rerankq_worker.queue.celery_log import take_over_log
from rerankq_worker.queue.consumer import AttemptPolicy, HandOn, consumer_with
from rerankq_worker.queue.control import keep_shape, replace_revoke
from rerankq_worker.queue.events import BatchEvents
from rerankq_worker.queue.heartbeat import Heartbeat
from rerankq_worker.queue.job_log import JobLine
from rerankq_worker.queue.risk_log import RiskLog
from rerankq_worker.settings import WorkerSettings

SOCKET_TIMEOUT_SECONDS = 5.0
CALLERS_QUEUE = "celery"
SOFT_LIMIT_MARGIN_SECONDS = 1.0  # a job keeps its own time; Celery's soft limit is there should it fail to

logger = logging.getLogger(__name__)


def build_app(settings: WorkerSettings) -> Celery:
    """The worker's Celery app: the wire of the contract, late acks, prefork with one child."""
    app = celery_app(
        "rerankq.worker",
        settings.broker_url.get_secret_value(),
        settings.effective_result_url,
        socket_timeout_seconds=SOCKET_TIMEOUT_SECONDS,
        result_ttl_seconds=settings.result_ttl_seconds,
        lease_seconds=settings.lease_seconds,
    )
    app.events_cls = BatchEvents
    app.conf.broker_transport_options |= {"dead_letter_ttl_seconds": settings.dead_letter_ttl_seconds}
    app.conf.update(
        task_queues=[_queue(lane) for lane in LANES],  # without -Q: interactive first, then bulk
        task_routes=[_route],
        task_acks_late=True,
        task_reject_on_worker_lost=True,  # the delivery cap ends what would otherwise loop
        task_acks_on_failure_or_timeout=True,  # False tells the caller FAILURE and runs the job again, for ever
        worker_deduplicate_successful_tasks=True,
        worker_prefetch_multiplier=1,
        worker_pool="rerankq_worker.queue.pool:TaskPool",
        worker_consumer=consumer_with(_attempt_policy(settings)),
        worker_concurrency=1,
        worker_proc_alive_timeout=settings.load_timeout_seconds + 60,
        worker_max_tasks_per_child=10_000,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_send_task_events=True,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        task_track_started=False,
        task_send_sent_event=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_channel_error_retry=True,  # an error reply of Redis ends no worker
        result_backend_always_retry=True,
        result_backend_max_retries=8,
    )
    app.conf.broker_transport_options |= {"max_deliveries": settings.max_attempts}
    steps: Any = app.steps
    steps["worker"].add(Heartbeat)
    steps["worker"].add(RiskLog)
    _add_tasks(app)
    # a queue that a callback names is not ours to read
    app.amqp.queues.select([queue_of(lane) for lane in LANES])
    return app


def _queue(lane: Lane) -> Queue:
    """As Celery makes one for a name it is asked for."""
    name = queue_of(lane)
    return Queue(name, Exchange(name), routing_key=name)


def _route(name: str, *_: object, **__: object) -> dict[str, str] | None:
    """Where a callback goes whose caller names no queue: Celery's usual one, for it is none of our tasks."""
    return None if name in (RERANK_TASK, PACK_TASK) else {"queue": CALLERS_QUEUE}


def _attempt_policy(settings: WorkerSettings) -> AttemptPolicy:
    def limits(queue: str) -> tuple[float, float]:
        soft, hard = settings.time_limits(lane_of(queue))
        return min(soft + SOFT_LIMIT_MARGIN_SECONDS, hard), hard

    def note(job_id: str, outcome: Outcome, lane: Lane | None) -> None:
        _store().finish(job_id, outcome, lane)

    return AttemptPolicy(limits, settings.max_payload_bytes, on_end=note)


def _end_vanished_or_later(job_id: str) -> bool:
    try:
        return _end_vanished(job_id)
    except Exception as error:  # noqa: BLE001 - the boundary: it is called from the event loop, and again
        logger.debug("job %s vanished, and is told so later: %s", job_id, type(error).__name__)
        return False


def _end_vanished(job_id: str) -> bool:
    """Answer a job whose message is nowhere; True when it has an answer, or is sure to get one."""
    answers = app.tasks[RERANK_TASK].backend
    if answers.get_task_meta(job_id, cache=False)["status"] in states.READY_STATES:
        return True  # a worker of an older release answered it, and did not take it off the list
    if _store().is_untold(job_id):
        return True  # it was set aside, and is answered as that
    error: RerankError = JobFailed(
        f"job {job_id} vanished from Redis before it was done: its lane or its message was purged, deleted, "
        "evicted or renamed away; submit the job again",
        {"where": "broker", "attempts": 0},
    )
    if _store().look_up(job_id).is_cancelled:
        error = Cancelled(f"job {job_id} was cancelled")
    # In this order: whoever submits it again begins a new record as soon as the answer is there.
    _store().finish(job_id, outcome_of(error), also={of_delivery("vanished"): 1})
    answers.mark_as_failure(job_id, error)
    told = {"job": job_id, "outcome": "cancelled" if isinstance(error, Cancelled) else "failed"}
    logger.error("%s", error, extra={"fields": told})
    return True


def _add_tasks(app: Celery) -> None:
    options: dict[str, Any] = {
        "bind": True,
        "shared": False,
        "base": AnsweringTask,
        "throws": (RerankError, AnswerNotStored),
    }
    app.task(name=RERANK_TASK, **options)(rerank)
    app.task(name=PACK_TASK, **options)(rerank_pack)


def rerank(task: "Task[..., Any]", /, *extra: object, **fields: Any) -> Any:
    """The task of one request: its fields are those of `RerankRequest`."""

    def answer(record: JobRecord, line: JobLine) -> wire.Summarized:
        ranking = _run(task, record, [_unpacked(extra, fields)], line)[0]
        if isinstance(ranking, RerankError):
            raise ranking
        return wire.Summarized(ranking.model_dump(), ranking.summary())

    return _guarded(task, answer)


def rerank_pack(task: "Task[..., Any]", /, *extra: object, **fields: Any) -> Any:
    """The task of a pack: `requests`, a list of what `rerank` takes."""

    def answer(record: JobRecord, line: JobLine) -> wire.Summarized:
        answers = _run(task, record, _requests_of(_unpacked(extra, fields)), line)
        failed = sum(isinstance(answer, RerankError) for answer in answers)
        body = {"answers": [_to_wire(answer) for answer in answers]}
        return wire.Summarized(body, f"pack={len(answers)} failed={failed}")

    return _guarded(task, answer)


def _guarded(task: "Task[..., Any]", answer: Callable[[JobRecord, JobLine], wire.Summarized]) -> Any:
    """The answer, or a named error: the one boundary, whatever happens."""
    job_id = str(task.request.id)
    line = task.request.line = _line(task)
    try:
        record = _store().look_up(job_id)
        earlier = record.is_answered and _earlier_answer(task, job_id)
        line.is_repeated = bool(earlier)
        return earlier or answer(record, line)
    except RerankError:
        raise
    except Superseded as error:
        line.end("superseded")
        raise Ignore(str(error)) from error
    except ForAnotherModel as error:
        _store().note_model(error.model)
        raise HandOn(queue_of(_lane(task), error.model), True) from None
    except SoftTimeLimitExceeded:
        raise DeadlineExceeded("the job's time was up before its first batch", {"scored": 0}) from None
    except (EngineAway, EngineChanged, RedisError) as error:
        line.end("given_back", error=error)
        raise Reject(f"{type(error).__name__}: {error}", requeue=True) from error
    except Exception as error:  # noqa: BLE001 - the boundary
        # Where it happened, not what it says: an exception's own text may carry the caller's.
        where = "".join(traceback.format_tb(error.__traceback__))
        logger.error("job %s: unexpected %s\n%s", job_id, type(error).__name__, where)
        raise JobFailed(
            f"job {job_id} failed with an unexpected {type(error).__name__}; the worker's log has the traceback",
            {"where": "worker", "attempts": _attempt_number(task)},
        ) from None


def _earlier_answer(task: "Task[..., Any]", job_id: str) -> Any:
    """What was answered already, where a producer sent the same job once more before it knew that.

    Raises:
        Cancelled: that was the answer, and nobody has asked again since.
    """
    try:
        meta: Any = task.backend.get_task_meta(job_id)
    except Exception:  # noqa: BLE001 - scoring it again is always right, whatever the backend raises
        return None
    status, told = meta["status"], meta["result"]
    error = of_revoked(job_id, *told.args) if status == "REVOKED" else told
    if isinstance(error, Cancelled):
        raise error
    return told if status == "SUCCESS" else None


def _run(
    task: "Task[..., Any]", record: JobRecord, requests: Sequence[Any], line: JobLine
) -> list[Ranking | RerankError]:
    attempt = _attempt(task, record, requests)
    line.wait_s, line.docs = attempt.queued_seconds, sum(map(_documents_of, requests))
    answers = _run_here(task, record, requests, attempt)
    line.note_answers(answers)
    return answers


def _run_here(
    task: "Task[..., Any]", record: JobRecord, requests: Sequence[Any], attempt: Attempt
) -> list[Ranking | RerankError]:
    fields = [_as_mapping(request) for request in requests]
    try:
        return _runner().run(attempt, fields)
    except (EngineChanged, ForAnotherModel):
        if not _runner().is_outdated():
            raise
        _runner.cache_clear()
        _tokenizer.cache_clear()
        return _runner().run(_attempt(task, record, requests), fields)


def _unpacked(extra: Sequence[object], fields: Mapping[str, Any]) -> Mapping[str, Any]:
    match extra:
        case ():
            pass
        case (None,):  # the task before it returned nothing
            pass
        case (dict() | list() as given,):
            fields = {**fields_of(given), **fields}
        case _:
            raise InvalidRequest(
                "request: expected keyword arguments, or what a task before this one returned: one mapping of them, or "
                "documents; set(immutable=True) leaves that out",
                {"field": "request"},
            )
    key = fields.get("payload")
    return fields if key is None else _store().payload(key)


def _requests_of(fields: Mapping[str, Any]) -> list[Any]:
    requests = fields.get("requests")
    if not isinstance(requests, list) or not requests:
        raise InvalidRequest("requests: expected a list of at least one request", {"field": "requests"})
    return requests  # pyright: ignore[reportUnknownVariableType] - JSON


def _as_mapping(request: Any) -> Mapping[str, Any]:
    return request if isinstance(request, dict) else {"request": "not an object"}


def _to_wire(answer: Ranking | RerankError) -> dict[str, Any]:
    if isinstance(answer, RerankError):
        return {"error": to_wire(answer)}
    return {"ranking": answer.model_dump()}


def _lane(task: "Task[..., Any]") -> Lane:
    return lane_of((task.request.delivery_info or {}).get("routing_key", ""))


def _line(task: "Task[..., Any]") -> JobLine:
    message = task.request
    queue = (message.delivery_info or {}).get("routing_key", "")
    return JobLine.of(str(message.id), queue, str(message.hostname), vars(message))


def _attempt(task: "Task[..., Any]", record: JobRecord, requests: Sequence[Any]) -> Attempt:
    message, lane = task.request, _lane(task)
    deadlines = [_deadline_of(request) for request in requests]
    now = _store().clock.now()
    limit_seconds = _settings().time_limits(lane)[0]
    return Attempt(
        job_id=str(message.id),
        lane=lane,
        number=_attempt_number(task),
        worker=str(message.hostname),
        queued_seconds=0.0 if record.submitted is None else max(now - record.submitted, 0.0),
        record=record,
        limit_seconds=limit_seconds,
        stop_at=stop_time(deadlines, limit_seconds, now),
    )


def _attempt_number(task: "Task[..., Any]") -> int:
    return deliveries(vars(task.request))


def _documents_of(request: Any) -> int:
    documents = request.get("documents") if isinstance(request, dict) else None
    return len(documents) if isinstance(documents, list) else 0


def _deadline_of(request: Any) -> float | None:
    deadline = request.get("deadline") if isinstance(request, dict) else None
    return deadline if isinstance(deadline, int | float) and not isinstance(deadline, bool) else None


@cache
def _settings() -> WorkerSettings:
    return WorkerSettings.load()


@cache
def _store() -> JobStore:
    settings = _settings()
    broker = redis_client(settings.broker_url.get_secret_value(), SOCKET_TIMEOUT_SECONDS)
    return JobStore(broker, settings.max_payload_bytes, settings.result_ttl_seconds)


@cache
def _tokenizer() -> PairTokenizer:
    settings = _settings()
    files = find_model(settings.model, settings.model_revision, offline=True)  # the engine has fetched it
    return PairTokenizer.from_model_dir(files.path, settings.max_length_tokens)


@cache
def _runner() -> JobRunner:
    settings = _settings()
    engine = EngineClient(settings.find_engine_socket(), wait_seconds=settings.load_timeout_seconds)
    served = engine.describe()
    # An engine on the CPU is the one that uses its cores; beside a GPU they would idle.
    os.environ["TOKENIZERS_PARALLELISM"] = "false" if served.device.startswith("cpu") else "true"
    reader = _tokenizer() if served.engine == "packed" else engine
    return JobRunner(_store(), reader, engine, served, settings.limits)


@celeryd_init.connect
def _take_over_process(instance: Any, **_: object) -> None:
    """What holds for a whole process once it is a worker of ours; whoever only imports this keeps its own."""
    if instance.app is not app:
        return
    take_over_log(instance, _settings())
    hooks.end_vanished = _end_vanished_or_later
    replace_revoke(lambda job_id: _store().call_off(job_id))
    keep_shape({queue_of(lane) for lane in LANES})
    task_success.connect(_note_success)
    task_failure.connect(_note_failure)
    task_revoked.connect(_note_revoked)
    worker_process_init.connect(_prepare_child)
    worker_process_shutdown.connect(_finish_child)


def _note_success(sender: "Task[..., Any]", **_: object) -> None:
    """A job's ranking has been stored; until then this attempt could be lost."""
    _store().finish(str(sender.request.id), "done", _lane(sender))
    line: JobLine = sender.request.line
    line.end("repeated" if line.is_repeated else "done")


def _note_failure(
    task_id: str, exception: BaseException, sender: "Task[..., Any] | None" = None, **_: object
) -> None:
    """A job failed in the child, or was killed at its hard limit by the parent."""
    if isinstance(exception, NO_ANSWER):  # not answered: it is tried again
        return
    is_here = sender is not None and sender.request.id == task_id  # the parent runs none
    _store().finish(task_id, outcome_of(exception), _lane(sender) if sender and is_here else None)
    if sender is not None and not Answers.is_in_parent():  # which has a line of its own
        line = getattr(sender.request, "line", None) or _line(sender)
        line.end_by(exception)


def _note_revoked(request: Any, expired: bool, **_: object) -> None:
    """A job's deadline had passed before it was taken, or an operator ended it."""
    lane = lane_of((request.delivery_info or {}).get("routing_key", ""))
    _store().finish(str(request.id), "expired" if expired else "cancelled", lane)


def _prepare_child(**_: object) -> None:
    """After the fork, before the first job: how answers are stored; the tokenizer, if the model is there already."""
    broker = read_address(_settings().broker_url.get_secret_value())
    store = _store()
    store.is_told_of_answers = Answers.in_child(app, broker.for_celery(), store.answer)
    store.begin_counting()
    with contextlib.suppress(ModelError):
        _tokenizer()
    job_spans.prepare()


def _finish_child(**_: object) -> None:
    """Before the child ends, which leaves out what Python does at an exit."""
    job_spans.finish()
    for handler in logging.getLogger().handlers:
        handler.flush()


def _app_or_exit() -> Celery:
    """The app of the settings; where they are wrong one line and the exit, for Celery would print its own stack."""
    try:
        return build_app(_settings())
    except InvalidSettings as error:
        print(f"rerankq-worker: {error}", file=sys.stderr)
        raise SystemExit(os.EX_CONFIG) from None


app = _app_or_exit()
