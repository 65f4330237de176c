"""The Celery side: two tasks, their limits, the answer. Never imports torch.

`celery -A rerankq_worker.app worker --pool prefork --concurrency 1` runs it under a process manager of your own,
beside `rerankq-worker --engine-only`; `celery -A rerankq_worker.app flower` shows it.
"""

import contextlib
import logging
import os
import time
import traceback
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from billiard.exceptions import SoftTimeLimitExceeded
from celery import Celery, Task
from celery.exceptions import Reject
from celery.signals import worker_process_init

from rerankq.contract import keys, transport, wire
from rerankq.contract.broker import PACK_TASK, RERANK_TASK, celery_app, lane_of
from rerankq.contract.errors import DeadlineExceeded, InvalidRequest, JobFailed, RerankError, to_wire
from rerankq.contract.messages import Ranking
from rerankq.contract.stores import redis_client
from rerankq_worker.attempts import AttemptPolicy, consumer_with
from rerankq_worker.engine_client import EngineAway, EngineClient
from rerankq_worker.job import Job, JobRunner, stop_time
from rerankq_worker.job_store import JobStore
from rerankq_worker.model_files import ModelError, find_model
from rerankq_worker.presence import Presence
from rerankq_worker.settings import WorkerSettings
from rerankq_worker.tokenizer import PairTokenizer

SOCKET_TIMEOUT_SECONDS = 5.0
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
    app.conf.update(
        task_acks_late=True,
        task_reject_on_worker_lost=True,  # the delivery cap ends what would otherwise loop
        task_acks_on_failure_or_timeout=True,  # False tells the caller FAILURE and runs the job again, for ever
        worker_deduplicate_successful_tasks=True,
        worker_prefetch_multiplier=1,
        worker_pool="prefork",
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
        result_backend_always_retry=True,
        result_backend_max_retries=8,
    )
    steps: Any = app.steps
    steps["worker"].add(Presence)
    _add_tasks(app)
    return app


def _attempt_policy(settings: WorkerSettings) -> AttemptPolicy:
    def limits(queue: str) -> tuple[float, float]:
        soft, hard = settings.time_limits(lane_of(queue))
        return min(soft + SOFT_LIMIT_MARGIN_SECONDS, hard), hard

    return AttemptPolicy(max_attempts=settings.max_attempts, time_limits=limits)


def _add_tasks(app: Celery) -> None:
    options: dict[str, Any] = {"bind": True, "shared": False, "throws": (RerankError,)}
    app.task(name=RERANK_TASK, **options)(rerank)
    app.task(name=PACK_TASK, **options)(rerank_pack)


def rerank(task: "Task[..., Any]", **fields: Any) -> wire.Summarized:
    """The task of one request: its fields are those of `RerankRequest`."""
    answer = _run(task, [_unpacked(fields)])[0]
    if isinstance(answer, RerankError):
        raise answer
    return wire.Summarized(answer.model_dump(), answer.summary())


def rerank_pack(task: "Task[..., Any]", **fields: Any) -> wire.Summarized:
    """The task of a pack: `requests`, a list of what `rerank` takes."""
    requests: Any = _unpacked(fields).get("requests")
    if not isinstance(requests, list) or not requests:
        raise InvalidRequest("requests: expected a list of at least one request", {"field": "requests"})
    answers = _run(task, requests)
    failed = sum(isinstance(answer, RerankError) for answer in answers)
    body = {"answers": [_to_wire(answer) for answer in answers]}
    return wire.Summarized(body, f"pack={len(answers)} failed={failed}")


def _run(task: "Task[..., Any]", requests: Sequence[Any]) -> list[Ranking | RerankError]:
    job = _job_of(task, requests)
    try:
        return _runner().run(job, [_as_mapping(request) for request in requests])
    except RerankError:
        raise
    except SoftTimeLimitExceeded:
        raise DeadlineExceeded("the job's time was up before its first batch", {"scored": 0}) from None
    except EngineAway as error:
        raise Reject(str(error), requeue=True) from error
    except Exception as error:  # noqa: BLE001 - the one boundary: whatever happens, the caller gets a named error
        # Where it happened, not what it says: an exception's own text may carry the caller's.
        where = "".join(traceback.format_tb(error.__traceback__))
        logger.error("job %s: unexpected %s\n%s", job.id, type(error).__name__, where)
        raise JobFailed(
            f"job {job.id} failed with an unexpected {type(error).__name__}; the worker's log has the traceback",
            {"where": "worker", "attempts": job.attempt},
        ) from None


def _unpacked(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    key = fields.get("payload")
    if key is None:
        return fields
    if not isinstance(key, str) or not key.startswith(keys.payload("")):
        raise InvalidRequest("payload: expected the key of a claim check", {"field": "payload"})
    return _store().payload(key)


def _as_mapping(request: Any) -> Mapping[str, Any]:
    return request if isinstance(request, dict) else {"request": "not an object"}


def _to_wire(answer: Ranking | RerankError) -> dict[str, Any]:
    if isinstance(answer, RerankError):
        return {"error": to_wire(answer)}
    return {"ranking": answer.model_dump()}


def _job_of(task: "Task[..., Any]", requests: Sequence[Any]) -> Job:
    message = task.request
    lane = lane_of((message.delivery_info or {}).get("routing_key", ""))
    deadlines = [_deadline_of(request) for request in requests]
    return Job(
        id=str(message.id),
        lane=lane,
        attempt=transport.deliveries(vars(message)),
        worker=str(message.hostname),
        queued_seconds=_queued_seconds(str(message.id)),
        stop_at=stop_time(deadlines, _settings().time_limits(lane)[0]),
    )


def _deadline_of(request: Any) -> float | None:
    deadline = request.get("deadline") if isinstance(request, dict) else None
    return float(deadline) if isinstance(deadline, int | float) else None


def _queued_seconds(job_id: str) -> float:
    submitted = _store().submitted(job_id)
    return 0.0 if submitted is None else max(time.time() - submitted, 0.0)


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
    return JobRunner(_store(), _tokenizer(), engine, engine.describe(), settings.limits)


@worker_process_init.connect
def _load_tokenizer(**_: object) -> None:
    """Load it in the child, after the fork and before the first job, if the model is there already."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the engine is the one that uses the cores
    with contextlib.suppress(ModelError):
        _tokenizer()


app = build_app(_settings())
