"""The operator's limits are a ceiling: no header and no field of a client's lifts one of them."""

import base64
import json
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from celery import Celery
from redis import Redis

from rerankq import DeadlineExceeded, RerankClient
from rerankq.answers import JobStatus
from rerankq.contract.keys import queue_of
from rerankq.contract.messages import Lane
from rerankq.contract.transport.dead_letters import DeadLetters
from rerankq.contract.wire import RERANK_TASK
from tests.faults.conftest import documents
from tests.service import Service

LONG = documents(1500)  # some seven seconds on the double; the interactive lane gives two
A_YEAR_SECONDS = 365 * 24 * 3600
MAX_PAYLOAD_BYTES = 2_000_000


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with Service(
        engine="tests.witness:engine?batch_ms=20&pair_ms=2",
        max_batch_pairs=8,
        interactive_soft_limit_seconds=2,
        interactive_hard_limit_seconds=30,
        max_payload_bytes=MAX_PAYLOAD_BYTES,
    ) as running:
        yield running


def request_of(query: str, **fields: object) -> dict[str, Any]:
    return {"query": query, "documents": LONG, **fields}


def push(
    redis: "Redis",
    lane: Lane,
    body: object,
    headers: dict[str, Any],
    delivery_info: dict[str, Any] | None = None,
) -> None:
    """Put a message on a lane by hand."""
    message = {
        "body": base64.b64encode(json.dumps(body).encode()).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": headers,
        "properties": {"body_encoding": "base64", "delivery_info": delivery_info or {}, "delivery_tag": "x"},
    }
    redis.lpush(queue_of(lane), json.dumps(message))
    redis.lpush(f"{queue_of(lane)}.bell", 1)


def end_of(service: Service, job_id: str) -> JobStatus:
    """How a job has ended that was submitted by a client which keeps no record."""
    job = service.client.job(job_id)
    service.wait_until(lambda: job.status().state not in ("unknown", "queued", "running"), 30)
    return job.status()


def ended_by_the_lane(service: Service, job_id: str) -> None:
    """The operator's limit of the interactive lane ended it."""
    assert "2 s of the interactive lane" in str(end_of(service, job_id).error)


def test_an_interactive_job_that_outlives_its_soft_limit_fails_and_burns_no_further_rows(
    service: Service, client: RerankClient
) -> None:
    job = client.submit("outlives the soft limit", LONG)

    with pytest.raises(DeadlineExceeded, match="of 1500 documents were scored before the time was up"):
        job.result(30)

    assert job.status().state == "expired"
    scored = service.testimony().rows_scored("outlives the soft limit")
    client.rerank("after the soft limit", ["a"])
    assert 0 < scored <= service.testimony().rows_scored("outlives the soft limit") <= scored + 16


def test_workers_say_how_long_a_job_may_take(service: Service, client: RerankClient) -> None:
    def told() -> list[object]:
        return [worker.limits_seconds for worker in client.workers() if "bulk" in worker.lanes]

    service.wait_until(told)

    assert told() == [{"interactive": 2.0, "bulk": 60.0}]


@pytest.mark.parametrize("ahead_seconds", [1e6, 1e300], ids=["days", "for ever"])
def test_a_deadline_far_ahead_leaves_a_job_the_time_of_its_lane(
    service: Service, client: RerankClient, ahead_seconds: float
) -> None:
    job = client.submit(f"{ahead_seconds} s", LONG, deadline=time.time() + ahead_seconds)

    ended_by_the_lane(service, job.job_id)


def test_a_caller_behind_jobs_that_asked_for_days_is_served(client: RerankClient) -> None:
    ahead = [client.submit(f"ahead {n}", LONG, deadline=time.time() + 1e6) for n in range(2)]  # one a worker

    assert client.rerank("behind them", ["a"]).complete
    for job in ahead:
        with pytest.raises(DeadlineExceeded):
            job.result(30)


def test_beyond_the_lanes_limit_a_job_may_answer_with_what_is_scored(client: RerankClient) -> None:
    ranking = client.submit("patient", LONG, deadline=time.time() + 1e6, on_deadline="partial").result(30)

    assert not ranking.complete
    assert 0 < ranking.scored < len(LONG)


def test_a_pack_has_no_more_time_than_its_lane(client: RerankClient) -> None:
    requests = [client.request(f"of a pack {n}", LONG, deadline=time.time() + 1e6) for n in range(2)]

    answers = client.send_pack(requests).answers(30)

    assert [type(answer) for answer in answers] == [DeadlineExceeded] * 2


def test_time_limits_of_a_clients_own_only_lower_the_lanes(service: Service, stranger: Celery) -> None:
    limits: dict[str, Any] = {
        "soft_time_limit": 1e6,
        "time_limit": 1e9,
        "expires": A_YEAR_SECONDS,
        "priority": 0,
    }
    job_id = stranger.send_task(
        RERANK_TASK, kwargs=request_of("generous"), queue=queue_of("interactive"), retries=-5, **limits
    ).id

    ended_by_the_lane(service, job_id)


def test_a_message_of_protocol_1_is_held_to_its_lane(service: Service, redis: "Redis") -> None:
    job_id = str(uuid.uuid4())
    body = {
        "task": RERANK_TASK,
        "id": job_id,
        "args": [],
        "kwargs": request_of("old"),
        "timelimit": [1e6, 1e6],
    }
    push(redis, "interactive", body, headers={})

    ended_by_the_lane(service, job_id)


def test_the_lane_is_the_one_a_message_lies_on(service: Service, redis: "Redis") -> None:
    job_id = str(uuid.uuid4())
    kwargs = request_of("in disguise", lane="bulk")
    push(
        redis,
        "interactive",
        [[], kwargs, {}],
        headers={"task": RERANK_TASK, "id": job_id, "x-deliveries": -1000},
        delivery_info={"exchange": "", "routing_key": queue_of("bulk")},
    )

    ended_by_the_lane(service, job_id)
    assert service.client.status(job_id).lane == "interactive"


def test_a_deadline_that_is_no_number_is_refused(service: Service, redis: "Redis") -> None:
    job_id = str(uuid.uuid4())
    kwargs = request_of("whenever", deadline=float("nan"))
    push(redis, "interactive", [[], kwargs, {}], headers={"task": RERANK_TASK, "id": job_id})

    assert "InvalidRequest: deadline: expected a finite number" in str(end_of(service, job_id).error)


def test_a_message_larger_than_a_payload_may_be_is_refused(service: Service, stranger: Celery) -> None:
    large = {"query": "large", "documents": ["x" * MAX_PAYLOAD_BYTES]}
    job_id = stranger.send_task(RERANK_TASK, kwargs=large, queue=queue_of("bulk"), compression="gzip").id

    assert "PayloadTooLarge: expected a message of at most 2,000,000 bytes" in str(
        end_of(service, job_id).error
    )


def test_a_job_with_an_eta_waits_in_redis_and_not_in_a_worker(
    service: Service, stranger: Celery, redis: "Redis", client: RerankClient
) -> None:
    started = time.time()
    kwargs = {"query": "later", "documents": ["a"]}
    job_id = stranger.send_task(RERANK_TASK, kwargs=kwargs, queue=queue_of("interactive"), countdown=4).id

    service.wait_until(lambda: redis.zcard("rerankq:delayed"))
    assert redis.hlen("rerankq:held") == 0
    service.wait_until(lambda: client.status(job_id).state == "done")
    assert time.time() - started >= 4


def test_a_job_cannot_be_put_off_for_longer_than_it_is_kept(
    service: Service, stranger: Celery, redis: "Redis"
) -> None:
    eta = datetime.now(UTC) + timedelta(seconds=A_YEAR_SECONDS)
    kwargs = {"query": "next year", "documents": ["a"]}
    job_id = stranger.send_task(RERANK_TASK, kwargs=kwargs, queue=queue_of("bulk"), eta=eta).id

    service.wait_until(lambda: DeadLetters(redis).show(job_id))
    assert end_of(service, job_id).state == "dead"


@pytest.mark.parametrize(
    ("priority", "options"),
    [(4, {}), (9, {}), (7, {"priority_steps": list(range(10)), "sep": ":"})],
    ids=["a step of kombu's", "the last step", "as Celery documents it"],
)
def test_a_priority_of_a_strangers_own_costs_no_answer(
    service: Service, stranger: Celery, priority: int, options: dict[str, object]
) -> None:
    """kombu puts such a message on a list that a worker with other steps does not read."""
    stranger.conf.broker_transport_options = options
    fields = {"query": f"priority {priority}", "documents": ["a"]}
    job = stranger.send_task(RERANK_TASK, kwargs=fields, queue=queue_of("bulk"), priority=priority)

    assert end_of(service, job.id).state == "done"
