"""Jobs that kill what runs them: tried three times, then answered and set aside; their neighbours are answered."""

import pickle
from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery

from rerankq.contract.errors import JobFailed
from rerankq.contract.transport.dead_letters import DeadLetters
from rerankq_worker.queue.consumer import JobInParent
from tests.redis_server import RedisServer
from tests.transport.worker_process import WorkerProcess


def test_a_job_that_kills_its_child_runs_three_times_and_is_set_aside(
    server: RedisServer, app: Celery, wait_until: Callable[..., None]
):
    with WorkerProcess(server), server.client() as client:
        poison = app.send_task("kill_child", queue="bulk", kwargsrepr="docs=3 chars=1k")
        innocent = app.send_task("note", (1,), queue="bulk")

        with pytest.raises(JobFailed, match="given up after 3 attempts"):
            poison.get(timeout=60)
        assert innocent.get(timeout=60) == 1

        assert client.lrange(f"rerankq:runs:{poison.id}", 0, -1) == [b"1", b"2", b"3"]
        wait_until(DeadLetters(client).count)
        (letter,) = DeadLetters(client).list()
        told = (letter.id, letter.task, letter.lane, letter.attempts, letter.summary)
        assert told == (poison.id, "kill_child", "bulk", 3, "docs=3 chars=1k")
        assert client.hlen("rerankq:held") == client.llen("bulk") == 0


def test_a_dead_letter_is_retried_with_all_its_attempts_before_it(
    server: RedisServer, app: Celery, wait_until: Callable[..., None]
):
    with WorkerProcess(server), server.client() as client:
        promise = app.send_task("kill_child", (3,))
        with pytest.raises(JobFailed):
            promise.get(timeout=60)
        promise.forget()
        wait_until(DeadLetters(client).count)

        assert DeadLetters(client).retry(promise.id)

        assert app.AsyncResult(promise.id).get(timeout=60) == "spared"
        assert client.lindex(f"rerankq:runs:{promise.id}", -1) == b"1"
        assert DeadLetters(client).list() == []


def test_a_message_gets_the_smaller_of_its_own_time_limits_and_those_of_its_lane(
    server: RedisServer, app: Celery
):
    with WorkerProcess(server):
        of_the_lane = app.send_task("limits").get(timeout=60)
        own = app.send_task("limits", time_limit=9, soft_time_limit=8).get(timeout=60)
        only_hard = app.send_task("limits", time_limit=9).get(timeout=60)
        greedy = app.send_task("limits", time_limit=1e9, soft_time_limit=8).get(timeout=60)

    assert (of_the_lane, own, only_hard, greedy) == ([25.0, 20.0], [9, 8], [9, None], [25.0, 8])


def test_a_job_whose_answer_can_never_be_stored_is_set_aside_and_told_by_the_next_worker(
    server: RedisServer, app: Celery, wait_until: Callable[..., None]
):
    """Whatever the answer is, and wherever it is stored: in the child or in the parent."""
    letters = DeadLetters(server.client())
    with WorkerProcess(
        server, TEST_RESULT_URL=f"{server.url}?timeout=3"
    ) as worker:  # redis-py raises TypeError
        jobs = {
            "a ranking": app.send_task("note", (1,)),
            "an error": app.send_task("fail"),
            "that its time was up": app.send_task("sleep", (9,), time_limit=1),
            "that it expired": app.send_task("note", (1,), expires=-1),
            "that its child died": app.send_task("kill_child"),
            "a revocation": app.send_task("sleep", (0.5,)),
        }
        app.control.revoke(jobs["a revocation"].id)
        wait_until(lambda: letters.count() == len(jobs), 60)
        assert worker.is_running()
    with server.client() as client:
        assert {letter.attempts for letter in letters.list()} == {3}
        assert client.llen("interactive") == client.hlen("rerankq:held") == 0

    with WorkerProcess(server):
        for job in jobs.values():
            with pytest.raises(JobFailed, match="given up after 3 attempts"):
                job.get(timeout=60)
        wait_until(lambda: letters.untold() == [])


def test_an_answer_that_cannot_be_encoded_ends_as_a_named_error(server: RedisServer, app: Celery):
    with WorkerProcess(server):
        with pytest.raises(JobFailed, match="the answer could not be stored"):
            app.send_task("unspeakable").get(timeout=60)
        assert app.send_task("note", (1,)).get(timeout=60) == 1


def test_what_a_job_says_goes_to_its_child_once(app: Celery):
    sent: list[bytes] = []

    class Pool:
        def apply_async(self, *call: Any, args: Any, **_: Any) -> None:
            sent.append(pickle.dumps((call, args)))

    app.send_task("note", ("zanzibarium",), argsrepr="()")
    with app.connection_for_read() as connection:
        message: Any = connection.default_channel.basic_get("interactive")
        JobInParent(message, app=app, task=app.tasks["note"]).execute_using_pool(Pool())  # pyright: ignore[reportArgumentType] - enough of a pool
        message.ack()

    assert [call.count(b"zanzibarium") for call in sent] == [1]
