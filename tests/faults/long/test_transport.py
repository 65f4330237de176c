"""The transport's own workers: what kills, freezes or outlasts them, and the Redis that goes away beneath them."""

import json
import signal
import time
from collections.abc import Callable

import pytest
from celery import Celery

from rerankq.contract.errors import JobFailed
from tests.redis_server import RedisServer
from tests.transport.app import make_app
from tests.transport.test_leases_with_workers import runs
from tests.transport.worker_process import WorkerProcess


def test_a_job_that_kills_the_whole_worker_runs_three_times_across_restarts(
    server: RedisServer, app: Celery, wait_until: Callable[..., None]
):
    poison = app.send_task("kill_worker")
    innocent = app.send_task("note", (1,))

    with server.client() as client, WorkerProcess(server, lease_seconds=1) as worker:
        for attempts in (1, 2, 3):
            wait_until(lambda n=attempts: client.llen(f"rerankq:runs:{poison.id}") == n)
            worker.wait()
            worker.start(wait=False)
        with pytest.raises(JobFailed, match="given up after 3 attempts"):
            poison.get(timeout=60)
        assert innocent.get(timeout=60) == 1

        assert client.llen(f"rerankq:runs:{poison.id}") == 3


@pytest.mark.parametrize(
    ("seconds", "status"), [(1.0, "SUCCESS"), (8.0, "FAILURE")], ids=["a ranking", "that its time was up"]
)
def test_a_job_whose_answer_could_not_be_stored_is_tried_again(
    server: RedisServer, wait_until: Callable[..., None], seconds: float, status: str
):
    with RedisServer() as results, results.client() as stored, server.client() as client:
        app = make_app(server.url, result_url=results.url)
        environment = {"TEST_RESULT_URL": results.url, "TEST_RESULT_RETRY_SECONDS": "0.2"}
        with WorkerProcess(server, **environment) as worker:
            job_id = app.send_task("sleep", (seconds,), time_limit=2).id
            wait_until(lambda: client.llen(f"rerankq:runs:{job_id}"))
            results.kill()
            worker.wait_for_log("job given_back")
            results.start()

            wait_until(lambda: stored.exists(f"celery-task-meta-{job_id}"))
        assert json.loads(stored.get(f"celery-task-meta-{job_id}") or b"")["status"] == status
        assert client.lrange(f"rerankq:runs:{job_id}", 0, -1) == [b"1", b"1"]


def test_a_worker_that_freezes_longer_than_its_lease_finds_it_gone_and_the_job_is_answered_once(
    server: RedisServer, app: Celery, wait_until: Callable[..., None]
):
    with WorkerProcess(server, lease_seconds=1) as frozen, server.client() as client:
        promise = app.send_task("sleep", (2.0,))
        wait_until(lambda: client.llen(f"rerankq:runs:{promise.id}"))
        frozen.signal(signal.SIGSTOP)
        with WorkerProcess(server, lease_seconds=1):
            assert promise.get(timeout=60) == 2.0
            wait_until(lambda: client.hlen("rerankq:held") == 0)
            frozen.signal(signal.SIGCONT)
            frozen.wait_for_log("its lease was gone at the ack")

    assert client.lrange(f"rerankq:runs:{promise.id}", 0, -1) in ([b"1"], [b"1", b"2"])


@pytest.mark.parametrize("seconds", [1.0, 5.0], ids=["it ends during the outage", "it ends after the outage"])
def test_a_job_runs_once_through_a_restart_of_redis(seconds: float, wait_until: Callable[..., None]):
    with (
        RedisServer(appendonly=True) as server,
        WorkerProcess(server, lease_seconds=2),
        WorkerProcess(server, lease_seconds=2),
        server.client() as client,
    ):
        app = make_app(server.url)
        job_id = app.send_task("sleep", (seconds,), ignore_result=True).id
        wait_until(lambda: client.llen(f"rerankq:runs:{job_id}"))
        server.kill()
        time.sleep(2.5)
        server.start()

        wait_until(lambda: client.hlen("rerankq:held") == client.llen("interactive") == 0)
        assert client.lrange(f"rerankq:runs:{job_id}", 0, -1) == [b"1"]


def test_a_job_taken_by_a_frozen_worker_that_dies_is_answered(server: RedisServer, app: Celery):
    with WorkerProcess(server, lease_seconds=1) as frozen:
        assert app.send_task("note", (1,)).get(timeout=60) == 1
        frozen.signal(signal.SIGSTOP)
        promise = app.send_task("note", (2,))
        frozen.kill()

    with WorkerProcess(server, lease_seconds=1):
        assert promise.get(timeout=60) == 2


def test_a_job_that_outlasts_its_lease_many_times_runs_once(server: RedisServer, app: Celery):
    with WorkerProcess(server, lease_seconds=1.5), WorkerProcess(server, lease_seconds=1.5):
        promise = app.send_task("sleep", (6.0,))
        assert promise.get(timeout=60) == 6.0

    assert runs(server, promise.id) == [b"1"]


def test_a_job_that_kills_its_child_once_is_counted_and_answered(server: RedisServer, app: Celery):
    with WorkerProcess(server):
        promise = app.send_task("kill_child", (1,))
        assert promise.get(timeout=60) == "spared"

    assert runs(server, promise.id) == [b"1", b"2"]
