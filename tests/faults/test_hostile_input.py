"""Whatever lies on a lane, nobody dies of it, nothing loops, nothing is executed: case y, through a real worker."""

import base64
import json
import pickle
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis

from rerankq import RerankClient, RerankError
from rerankq.contract.heartbeats import Heartbeats
from rerankq.contract.keys import PACE, WORKERS, queue_of
from rerankq.contract.messages import OPTIONS_SINCE_VERSION_2
from rerankq.contract.transport.dead_letters import DeadLetters
from rerankq.contract.wire import PACK_TASK, RERANK_TASK
from tests.contract.test_heartbeats import STRANGE
from tests.service import Service

FEW = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)
FIELDS = st.sampled_from(
    [
        "query",
        "documents",
        "top_n",
        "deadline",
        "lane",
        "version",
        "payload",
        "requests",
        "task",
        "self",
        *OPTIONS_SINCE_VERSION_2,
    ]  # no model: one that nobody serves is waited for
)
HEADERS = st.sampled_from(
    [
        *(
            "id",
            "task",
            "eta",
            "expires",
            "retries",
            "timelimit",
            "root_id",
            "group",
            "stamps",
            "ignore_result",
        ),
        *(
            "x-deliveries",
            "redelivered",
            "compression",
            "rerankq-payload",
            "argsrepr",
            "kwargsrepr",
            "origin",
        ),
    ]
)
KWARGS = st.dictionaries(FIELDS, JSON | st.just(["a", "b"]) | st.just("q"), max_size=6)


def body_of(kwargs: dict[str, Any]) -> bytes:
    """A task message's body of protocol 2."""
    return json.dumps([[], kwargs, {}]).encode()


@pytest.fixture(autouse=True)
def _nobody_dies(service: Service) -> Iterator[None]:
    """Every test here leaves the processes that it found, with nothing in their hands, and at work."""
    lanes = ("interactive", "bulk")
    before = [(service.celery_worker(lane).pid, service.celery_child(lane).pid) for lane in lanes]
    yield
    with service.redis.client() as redis:
        service.wait_until(lambda: redis.hlen("rerankq:held") == 0 and not redis.llen(queue_of("bulk")))
    assert service.client.rerank("still at work", ["a"]).complete
    assert [(service.celery_worker(lane).pid, service.celery_child(lane).pid) for lane in lanes] == before


def push(redis: "Redis", message: bytes) -> None:
    redis.lpush(queue_of("bulk"), message)
    ring(redis)


def ring(redis: "Redis") -> None:
    """Tell the workers now, or what a stranger sends waits for up to a second."""
    redis.lpush(f"{queue_of('bulk')}.bell", 1)


def envelope(body: bytes, **changes: Any) -> bytes:
    """A message as kombu writes it, but for `changes` to its headers."""
    job_id = str(uuid.uuid4())
    headers = {"id": job_id, "task": RERANK_TASK, "lang": "py", "root_id": job_id, "argsrepr": "", **changes}
    properties = {
        "correlation_id": job_id,
        "delivery_mode": 2,
        "delivery_info": {"exchange": "", "routing_key": queue_of("bulk")},
        "priority": 0,
        "body_encoding": "base64",
        "delivery_tag": job_id,
    }
    return json.dumps(
        {
            "body": base64.b64encode(body).decode(),
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": headers,
            "properties": properties,
        }
    ).encode()


@FEW
@given(kwargs=KWARGS, task=st.sampled_from([RERANK_TASK, PACK_TASK]))
def test_any_json_a_stranger_sends_ends_in_a_ranking_or_a_named_error(
    stranger: Celery, redis: "Redis", client: RerankClient, kwargs: dict[str, Any], task: str
) -> None:
    job_id = str(uuid.uuid4())
    stranger.send_task(task, kwargs=kwargs, task_id=job_id, queue=queue_of("bulk"))
    ring(redis)

    while client.status(job_id).state not in ("done", "failed", "dead", "expired"):
        time.sleep(0.01)
    assert client.status(job_id).error or client.status(job_id).state == "done"


@FEW
@given(message=st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_on_a_lane_are_set_aside(redis: "Redis", message: bytes) -> None:
    push(redis, message)


@FEW
@given(body=st.binary(max_size=100) | KWARGS.map(body_of), changes=st.dictionaries(HEADERS, JSON, max_size=3))
def test_any_headers_and_body_in_a_proper_envelope_are_answered_or_set_aside(
    redis: "Redis", body: bytes, changes: dict[str, Any]
) -> None:
    push(redis, envelope(body, **changes))


class Dangerous:
    """Writes a key to Redis when it is unpickled."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (self._path, "w"))


def test_a_pickled_body_is_set_aside_and_never_unpickled(
    service: Service, redis: "Redis", tmp_path: Any
) -> None:
    trap = tmp_path / "executed"
    body = json.loads(envelope(pickle.dumps(((), {"query": Dangerous(str(trap))}, {}))))
    body["content-type"], body["content-encoding"] = "application/x-python-serialize", "binary"
    push(redis, json.dumps(body).encode())

    job_id = body["headers"]["id"]
    service.wait_until(
        lambda: service.client.status(job_id).state == "dead"
    )  # set aside first, told afterwards
    assert DeadLetters(redis).show(job_id)
    assert not trap.exists()


@pytest.mark.parametrize(
    "payload", [b"not zstd", b"", b"\x28\xb5\x2f\xfd" + b"\x00" * 50], ids=["text", "empty", "broken zstd"]
)
def test_a_claim_check_that_holds_no_request_is_a_named_error(
    stranger: Celery, redis: "Redis", client: RerankClient, payload: bytes
) -> None:
    job_id = str(uuid.uuid4())
    redis.set(f"rerankq:payload:{job_id}", payload, ex=60)
    key = f"rerankq:payload:{job_id}"
    stranger.send_task(RERANK_TASK, kwargs={"payload": key}, task_id=job_id, queue=queue_of("bulk"))

    while client.status(job_id).state not in ("failed", "dead"):
        time.sleep(0.01)
    with pytest.raises(RerankError, match="payload"):
        client.job(job_id).result(5)


def test_an_unknown_task_is_answered_and_set_aside(
    stranger: Celery, client: RerankClient, service: Service
) -> None:
    job_id = str(uuid.uuid4())
    stranger.send_task("os.system", args=["true"], task_id=job_id, queue=queue_of("bulk"))

    service.wait_until(lambda: client.status(job_id).state == "dead")


def test_strange_heartbeats_disturb_no_worker(service: Service, redis: "Redis") -> None:
    heartbeats, quiet = Heartbeats(redis), _lines_of_trouble(service)
    ours = {worker.name for worker in heartbeats.alive()}
    for number, strange in enumerate(STRANGE):
        for key in (WORKERS, PACE):
            redis.hset(key, f"other{number}@host", strange.values[0])
    before = redis.hmget(WORKERS, *ours)

    service.wait_until(lambda: not set(before) & set(redis.hmget(WORKERS, *ours)))

    assert {worker.name for worker in heartbeats.alive()} == ours
    assert _lines_of_trouble(service) == quiet


def _lines_of_trouble(service: Service) -> list[str]:
    return [line for line in service.log().splitlines() if "ERROR" in line or "onnection" in line]
