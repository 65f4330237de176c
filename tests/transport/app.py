"""A small Celery app on the transport: tasks that note their runs in Redis, sleep, or kill what runs them."""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import redis
from celery import Celery
from celery.concurrency.asynpool import AsynPool

from rerankq.contract.errors import DeadlineExceeded
from rerankq.contract.transport.connection import LeasedAMQP
from rerankq.contract.transport.hooks import hooks
from rerankq_worker.queue import consumer
from rerankq_worker.queue.answers import AnsweringTask
from rerankq_worker.queue.consumer import AttemptPolicy, consumer_with
from rerankq_worker.queue.events import BatchEvents

BROKER_URL = os.environ.get("TEST_BROKER_URL", "redis://127.0.0.1:1/0")
LEASE_SECONDS = float(os.environ.get("TEST_LEASE_SECONDS", "3"))
RESULT_RETRY_SECONDS = float(os.environ.get("TEST_RESULT_RETRY_SECONDS", "5"))

consumer.ANSWER_AGAIN_SECONDS = 0.5

# Celery looks for dead children every 5 s. Here it never does: our own pool notices them.
AsynPool.timers = property(lambda _: {})

GATE_FILE = os.environ.get("TEST_GATE_FILE")

if GATE_FILE:
    hooks.is_ready = Path(GATE_FILE).exists


def make_app(broker_url: str = BROKER_URL, result_url: str | None = None, **transport_options: Any) -> Celery:
    backend = result_url or os.environ.get("TEST_RESULT_URL", broker_url)
    app = Celery(
        "transport-test",
        broker=broker_url,
        backend=backend,
        amqp=LeasedAMQP if os.environ.get("TEST_TRANSPORT", "ours") == "ours" else None,
        events=BatchEvents,
        set_as_current=False,
        task_cls=AnsweringTask,
    )
    app.conf.update(
        broker_transport_options={
            "visibility_timeout": LEASE_SECONDS,
            "backoff_seconds": [0, 0.2],
            "unacked_restore_interval": 0.3,
            "priority_steps": [0],
            "queue_order_strategy": "priority",
            "socket_timeout": 5,
            "max_deliveries": 3,
            **transport_options,
        },
        broker_connection_retry_on_startup=True,
        broker_channel_error_retry=True,
        worker_pool="rerankq_worker.queue.pool:TaskPool",
        worker_consumer=consumer_with(AttemptPolicy(time_limits=lane_limits)),
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_default_queue="interactive",
        worker_prefetch_multiplier=1,
        worker_concurrency=1,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_deduplicate_successful_tasks=True,
        worker_hijack_root_logger=False,
        task_serializer="json",
        accept_content=["json"],
        redis_retry_on_timeout=True,
        result_backend_transport_options={"retry_policy": {"timeout": RESULT_RETRY_SECONDS}},
    )
    app.task(name="note", shared=False, bind=True)(note)
    app.task(name="sleep", shared=False, bind=True)(sleep)
    app.task(name="limits", shared=False, bind=True)(limits)
    app.task(name="kill_child", shared=False, bind=True)(kill_child)
    app.task(name="kill_worker", shared=False, bind=True)(kill_worker)
    app.task(name="fail", shared=False, bind=True)(fail)
    app.task(name="unspeakable", shared=False, bind=True)(unspeakable)
    return app


def lane_limits(queue: str) -> tuple[float, float]:
    return {"interactive": (20.0, 25.0)}.get(queue, (60.0, 90.0))


def note_run(task: Any) -> int:
    """Write down that the task has started; how often that has happened now."""
    with redis.Redis.from_url(BROKER_URL) as client:
        return int(client.rpush(f"rerankq:runs:{task.request.id}", str(task.request.get("x-deliveries", 1))))


def note(self: Any, value: object = None) -> object:
    note_run(self)
    return value


def sleep(self: Any, seconds: float) -> float:
    note_run(self)
    time.sleep(seconds)
    return seconds


def limits(self: Any) -> list[float]:
    return list(self.request.timelimit)


def kill_child(self: Any, times: int = 1_000_000) -> str:
    if note_run(self) > times:
        return "spared"
    os.kill(os.getpid(), signal.SIGKILL)
    return "unreachable"


def kill_worker(self: Any) -> None:
    note_run(self)
    os.kill(os.getppid(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def fail(self: Any) -> None:
    note_run(self)
    raise DeadlineExceeded("its time was up")


def unspeakable(self: Any) -> object:
    note_run(self)
    return object()


app = make_app()

if __name__ == "__main__":
    app.worker_main(["worker", *sys.argv[1:]])
