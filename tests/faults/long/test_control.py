"""What an operator does to jobs with `celery control`, and sees of them with `celery inspect`."""

import base64
import json
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery

from rerankq import Cancelled, RerankClient
from rerankq.client import Job
from rerankq.contract import keys
from rerankq.contract.broker import celery_app
from rerankq.contract.keys import queue_of
from rerankq.contract.wire import PACK_TASK, RERANK_TASK
from tests.faults.conftest import documents
from tests.service import Service

LONG = documents(1500)  # some seven seconds on the double
MARKER = "zanzibarium"


@pytest.fixture
def operator(service: Service) -> Iterator[Celery]:
    """Who runs the `celery` command."""
    url = service.redis.url
    with celery_app("operator", url, url, socket_timeout_seconds=5, result_ttl_seconds=60) as app:
        yield app


BOTH: dict[str, Any] = {"reply": True, "timeout": 20, "limit": 2}
"""Until both workers have answered."""


def revoke(app: Celery, job_id: str) -> None:
    app.control.revoke(job_id, **BOTH)


def terminate(app: Celery, job_id: str) -> None:
    app.control.terminate(job_id, **BOTH)


def revoke_gently(app: Celery, job_id: str) -> None:
    """With a signal that ends no process: in the child it is the one of the soft limit."""
    app.control.revoke(job_id, terminate=True, signal="SIGUSR1", **BOTH)


def revoke_stamp(app: Celery, job_id: str) -> None:
    app.control.revoke_by_stamped_headers({"of": job_id}, **BOTH)


def terminate_stamp(app: Celery, job_id: str) -> None:
    app.control.revoke_by_stamped_headers({"of": job_id}, terminate=True, **BOTH)


ENDINGS = [revoke, terminate, revoke_gently, revoke_stamp, terminate_stamp]


def send(app: Celery, query: str, texts: list[str]) -> str:
    """A bulk job with its own id as a stamp."""
    job_id = str(uuid.uuid4())
    options: dict[str, Any] = {"stamped_headers": ["of"], "of": job_id, "headers": {"stamps": {"of": job_id}}}
    kwargs = {"query": query, "documents": texts}
    return app.send_task(RERANK_TASK, kwargs=kwargs, task_id=job_id, queue=queue_of("bulk"), **options).id


def is_running(job: Job) -> bool:
    return job.status().state == "running"


@pytest.mark.parametrize("end", ENDINGS)
def test_a_running_job_that_an_operator_ends_is_cancelled(
    service: Service, client: RerankClient, operator: Celery, end: Callable[[Celery, str], None]
) -> None:
    query = f"running, {end.__name__}"
    job = client.job(send(operator, query, LONG))
    service.wait_until(lambda: service.testimony().rows_scored(query))

    end(operator, job.job_id)

    with pytest.raises(Cancelled):
        job.result(30)
    client.submit(f"after {query}", ["a"], lane="bulk").result(30)
    assert job.status().state == "cancelled"
    assert service.testimony().rows_scored(query) < len(LONG)


@pytest.mark.parametrize("end", ENDINGS)
def test_a_waiting_job_that_an_operator_ends_is_cancelled_and_never_started(
    service: Service, client: RerankClient, operator: Celery, end: Callable[[Celery, str], None]
) -> None:
    query = f"waiting, {end.__name__}"
    ahead = client.submit(f"ahead of {query}", documents(300), lane="bulk")
    service.wait_until(lambda: is_running(ahead))
    job = client.job(send(operator, query, ["a"]))

    end(operator, job.job_id)

    assert ahead.result(30).complete
    service.wait_until(lambda: job.status().error)
    assert job.status().state == "cancelled"
    assert service.testimony().rows_scored(query) == 0


def test_a_cancelled_id_runs_when_it_is_submitted_again_after_its_answer_has_expired(
    service: Service, client: RerankClient
) -> None:
    job = client.submit("cancelled once", LONG, lane="bulk", job_id="cancelled-once")
    service.wait_until(lambda: is_running(job))
    job.cancel()
    service.wait_until(lambda: job.status().error)
    job.cancel()
    with service.redis.client() as redis:
        assert not redis.exists(keys.cancel(job.job_id))
        redis.delete(keys.result(job.job_id), keys.job(job.job_id))

    assert client.submit("cancelled once", ["a"], lane="bulk", job_id=job.job_id).result(30).complete


def test_a_job_that_is_done_leaves_no_cancellation_behind(service: Service, client: RerankClient) -> None:
    job = client.submit("done already", ["a"])
    assert job.result(30).complete
    with service.redis.client() as redis:
        service.wait_until(lambda: redis.hexists(keys.job(job.job_id), "answered"))
        job.cancel()

        assert not redis.exists(keys.cancel(job.job_id))


SECRET: dict[str, Any] = {
    "query": MARKER,
    "documents": [f"{MARKER} {number}" for number in range(4000)],
}  # 18 s on the double, not waited for


def of_protocol_1(job_id: str) -> tuple[dict[str, str], object]:
    return {}, {"task": RERANK_TASK, "id": job_id, "args": [], "kwargs": SECRET}


def of_protocol_2(job_id: str) -> tuple[dict[str, str], object]:
    return {"task": RERANK_TASK, "id": job_id, "shadow": MARKER, "argsrepr": MARKER}, [[], SECRET, {}]


def of_a_pack(job_id: str) -> tuple[dict[str, str], object]:
    return {"task": PACK_TASK, "id": job_id}, [[], {"requests": [SECRET]}, {}]


@pytest.mark.parametrize("message", [of_protocol_1, of_protocol_2, of_a_pack])
def test_no_inspection_shows_what_the_user_wrote(
    service: Service, operator: Celery, message: Callable[[str], tuple[dict[str, str], object]]
) -> None:
    job_id = str(uuid.uuid4())
    headers, body = message(job_id)
    raw = {
        "body": base64.b64encode(json.dumps(body).encode()).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": headers,
        "properties": {"body_encoding": "base64", "delivery_info": {}, "delivery_tag": "x"},
    }
    with service.redis.client() as redis:
        redis.lpush(queue_of("bulk"), json.dumps(raw))
        redis.lpush(f"{queue_of('bulk')}.bell", 1)
    inspect: Any = operator.control.inspect(timeout=20, limit=2)
    service.wait_until(lambda: job_id in repr(inspect.active()))

    shown = [inspect.query_task(job_id), inspect.active(), inspect.reserved(), inspect.scheduled()]

    assert job_id in repr(shown[0])
    assert MARKER not in repr(shown) + service.log()
    revoke(operator, job_id)
