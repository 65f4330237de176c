"""Real Celery workers that die, freeze, stop and take long: every accepted job is answered, and once."""

import signal
from collections.abc import Callable

from celery import Celery

from tests.redis_server import RedisServer
from tests.transport.worker_process import WorkerProcess


def runs(server: RedisServer, job_id: str) -> list[bytes]:
    """The delivery number of each start of the job."""
    with server.client() as client:
        return client.lrange(f"rerankq:runs:{job_id}", 0, -1)


def test_the_job_of_a_killed_worker_runs_again_and_is_counted(
    server: RedisServer, app: Celery, wait_until: Callable[..., None]
):
    with WorkerProcess(server, lease_seconds=1) as dying:
        promise = app.send_task("sleep", (1.0,))
        wait_until(lambda: runs(server, promise.id))
        dying.kill()

    with WorkerProcess(server, lease_seconds=1):
        assert promise.get(timeout=60) == 1.0

    assert runs(server, promise.id) == [b"1", b"2"]


def test_a_worker_told_to_stop_at_once_hands_its_job_back_uncounted(
    server: RedisServer, app: Celery, wait_until: Callable[..., None]
):
    with WorkerProcess(server) as stopping:
        promise = app.send_task("sleep", (1.0,))
        wait_until(lambda: runs(server, promise.id))
        stopping.signal(signal.SIGQUIT)
        stopping.wait()

    with WorkerProcess(server):
        assert promise.get(timeout=10) == 1.0

    assert runs(server, promise.id) == [b"1", b"1"]


def test_no_message_is_taken_before_the_worker_is_ready(
    server: RedisServer, app: Celery, wait_until: Callable[..., None]
):
    gate = server.directory / "ready"
    with WorkerProcess(server, TEST_GATE_FILE=str(gate)) as loading, server.client() as client:
        promise = app.send_task("note", (1,))
        assert app.control.ping(timeout=10, limit=1), (
            f"a loading worker answers pings; its log:\n{loading.log}"
        )
        assert client.llen("interactive") == 1

        gate.touch()
        assert promise.get(timeout=60) == 1
