"""What Flower and `celery events` see of a worker: every event, in order, with its own time, in batches."""

import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery
from kombu.asynchronous.timer import Timer

from rerankq_worker.queue import events
from rerankq_worker.queue.events import Batches
from tests.redis_server import RedisServer
from tests.transport.worker_process import WorkerProcess

TOLD = ["task-received", "task-started", "task-succeeded"]


@pytest.fixture
def seen(server: RedisServer, app: Celery, wait_until: Callable[..., None]) -> Iterator[list[dict[str, Any]]]:
    """The events of all workers, as they come."""
    told: list[dict[str, Any]] = []
    with app.connection_for_read() as connection:
        receiver = app.events.Receiver(connection, handlers={"*": told.append})
        watcher = threading.Thread(target=lambda: list(receiver.consume(wakeup=False, safety_interval=0.1)))
        watcher.start()
        wait_until(server.client().pubsub_numpat)
        yield told
        receiver.should_stop = True
        watcher.join()


def test_events_of_a_worker_that_stops_in_a_job_are_complete_and_in_order(
    server: RedisServer,
    app: Celery,
    seen: list[dict[str, Any]],
    wait_until: Callable[..., None],
):
    with WorkerProcess(server, more=["-E"]) as worker:
        quick = [app.send_task("note", queue="interactive").id for _ in range(3)]
        slow = app.send_task("sleep", (1.0,), queue="interactive").id
        wait_until(lambda: server.client().llen(f"rerankq:runs:{slow}"))
        worker.signal(signal.SIGTERM)
        worker.wait()
    wait_until(lambda: len(seen) >= 3 * len(TOLD) + len(TOLD))

    by_job = {job: [event for event in seen if event.get("uuid") == job] for job in (*quick, slow)}
    assert all([event["type"] for event in events] == TOLD for events in by_job.values())
    assert seen == sorted(seen, key=lambda event: event["clock"])
    received, started, succeeded = by_job[slow]
    assert received["timestamp"] <= started["timestamp"] < succeeded["timestamp"] - 0.9


def test_events_outlive_the_connection_that_was_to_publish_them(
    app: Celery, seen: list[dict[str, Any]], wait_until: Callable[..., None]
):
    with app.connection_for_write() as lost, app.connection_for_write() as anew:
        before, after = (
            app.events.Dispatcher(each, buffer_group=["task"], hostname="w@test") for each in (lost, anew)
        )
        for told in TOLD:
            before.send(told, uuid="1")
        before.close()

        after.extend_buffer(before)
        after.flush()
        wait_until(lambda: len(seen) >= len(TOLD))

    assert [event["type"] for event in seen] == TOLD


class Loop:
    """Celery's event loop as far as it has timers; time passes when it is told to."""

    def __init__(self) -> None:
        self.timer = Timer()

    def call_later(self, delay: float, callback: Callable[[], None]) -> Any:
        return self.timer.call_after(delay, callback)

    def pass_time(self) -> None:
        due = self.timer.queue
        self.timer.clear()
        for each in due:
            if not each.entry.canceled:
                each.entry()


def test_what_is_told_within_a_moment_is_published_once():
    loop, published = Loop(), []
    batches = Batches(loop, lambda: published.append(1), lambda: False)

    batches.gather()
    batches.gather()
    assert not published
    loop.pass_time()
    loop.pass_time()

    assert published == [1]


def test_nothing_is_published_between_a_message_and_its_child():
    loop, published, on_its_way = Loop(), [], [True]
    batches = Batches(loop, lambda: published.append(1), lambda: on_its_way[0])

    batches.gather()
    loop.pass_time()
    assert not published
    on_its_way[0] = False
    loop.pass_time()

    assert published == [1]


def test_a_child_that_does_not_come_holds_back_no_events(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(events, "GATHERED_FOR_SECONDS", 0.0)
    loop, published = Loop(), []
    batches = Batches(loop, lambda: published.append(1), lambda: True)

    batches.gather()
    loop.pass_time()

    assert published == [1]


def test_a_timer_that_went_with_its_connection_is_set_anew():
    loop, published = Loop(), []
    batches = Batches(loop, lambda: published.append(1), lambda: False)

    batches.gather()
    loop.timer.queue[0].entry.cancel()
    batches.gather()
    loop.pass_time()

    assert published == [1]
