"""The Redis users of deploy/redis/users.acl: everything runs under them with nothing refused, and they can no more."""

import asyncio
import importlib.util
import json
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import redis
from celery import Celery, chord, group
from starlette.testclient import TestClient
from typer.testing import CliRunner

from rerankq import AsyncRerankClient, RerankClient
from rerankq.bulk import BulkRun, Task
from rerankq.celery import signature
from rerankq.cli.app import app
from rerankq.contract import keys, wire
from rerankq.contract.broker import celery_app
from rerankq.contract.keys import queue_of
from rerankq.contract.transport.dead_letters import DeadLetters
from rerankq.contract.transport.envelope import DELIVERIES_HEADER
from rerankq.http import HttpSettings, create_app
from rerankq.settings import ClientSettings
from rerankq.submission import job_submission
from tests.bulk.test_run import rows, write
from tests.deploy.compose_rules import ROOT
from tests.guarded_redis import USERS_ACL, GuardedRedis
from tests.redis_server import free_port
from tests.service import Service

METRICS_PORT = free_port()
# What KEDA's `redis` trigger asks.
KEDA = """
local listName = KEYS[1]
local listType = redis.call('type', listName).ok
local cmd = {zset = 'zcard', set = 'scard', list = 'llen', hash = 'hlen', none = 'llen'}
return redis.call(cmd[listType], listName)
"""


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    """A service whose Redis knows these users alone; its own client is the worker's user."""
    engine = "rerankq_worker.doubles:slow?batch_ms=20"
    with Service(engine=engine, redis=GuardedRedis(), metrics_port=METRICS_PORT) as running:
        yield running


@pytest.fixture
def guarded(service: Service) -> GuardedRedis:
    assert isinstance(service.redis, GuardedRedis)
    return service.redis


@pytest.fixture
def producer(guarded: GuardedRedis) -> Iterator[RerankClient]:
    with RerankClient(settings=_patient(guarded.url_of("producer"))) as client:
        yield client


def _patient(url: str) -> ClientSettings:
    return ClientSettings(broker_url=url, redis_timeout_seconds=5.0)


@pytest.fixture(autouse=True)
def _nothing_is_refused(guarded: GuardedRedis) -> Iterator[None]:
    with redis.Redis.from_url(guarded.url_of("admin")) as admin:
        admin.script_flush()  # each user may be the first to ask after a restart of Redis
    yield
    # redis-py tells every server the version of itself, and does not mind who refuses to hear it.
    assert {what for what in guarded.refused() if not what[2].startswith("client")} == set()


def test_a_producer_asks_waits_and_calls_off(guarded: GuardedRedis, producer: RerankClient) -> None:
    assert producer.rerank("q", ["a", "b"], timeout=20).complete
    long = producer.submit("q", ["word " * 40] * 4_000, lane="bulk")  # its body travels beside its message
    assert producer.submit("q", ["word " * 40] * 4_000, lane="bulk", job_id=long.job_id).job_id == long.job_id
    assert long.progress()[1] == 4_000
    long.cancel()
    assert producer.workers()
    assert producer.lanes()["interactive"] == 0
    assert long.status().state == "cancelled"


def test_a_named_job_is_answered_and_one_of_an_older_client_handed_on(
    guarded: GuardedRedis, producer: RerankClient, service: Service
) -> None:
    assert producer.rerank("q", ["a"], model="double", timeout=20).complete
    waiting = producer.submit("q", ["a"], model="other", lane="bulk")
    message = job_submission(producer.request("q", ["b"], model="other"), None, producer.clock)
    producer.deliver(replace(message, model=None))

    service.wait_until(lambda: producer.model_lanes().get(("interactive", "other")) == 1)
    listed = json.loads(_rerankq(service, "models", "--json"))["models"]

    assert [(each["model"], sum(each["waiting"].values())) for each in listed] == [
        ("double", 0),
        ("other", 2),
    ]
    assert producer.lanes() == {"interactive": 1, "bulk": 1}
    waiting.cancel()
    producer.cancel(message.job_id)
    with redis.Redis.from_url(guarded.url_of("admin")) as admin:
        admin.delete(queue_of("interactive", "other"), queue_of("bulk", "other"))


def test_a_producer_asks_from_asyncio(guarded: GuardedRedis) -> None:
    async def ask() -> bool:
        async with AsyncRerankClient(settings=_patient(guarded.url_of("producer"))) as client:
            return (await client.rerank("q", ["a", "b"], timeout=20)).complete

    assert asyncio.run(ask())


def test_a_producer_works_through_a_file(
    guarded: GuardedRedis, producer: RerankClient, tmp_path: Path
) -> None:
    given = write(tmp_path / "in.jsonl", rows(40))

    summary = BulkRun(Task(given, str(tmp_path / "out.jsonl"), pack_pairs=12), producer).run()

    assert summary.rows == 40


def test_the_http_face_is_a_producer(guarded: GuardedRedis) -> None:
    settings = HttpSettings.load(broker_url=guarded.url_of("producer"), redis_timeout_seconds=5.0)
    with TestClient(create_app(settings=settings), base_url="http://127.0.0.1") as http:
        asked = [http.get(path) for path in ("/health", "/health/ready", "/v1/state")]
        asked.append(http.post("/v1/rerank", json={"query": "q", "documents": ["a", "b"]}))

    assert [reply.status_code for reply in asked] == [200] * len(asked)


def test_any_celery_client_asks_as_a_producer(guarded: GuardedRedis) -> None:
    url = guarded.url_of("producer")
    with Celery("stranger", broker=url, backend=url) as plain:
        job = plain.send_task(
            "rerankq.rerank", kwargs={"query": "q", "documents": ["a"]}, queue="rerankq.interactive"
        )
        assert job.get(timeout=20)["scored"] == 1
        job.forget()


def test_any_celery_client_builds_a_canvas_as_a_producer(service: Service, guarded: GuardedRedis) -> None:
    url = guarded.url_of("producer")
    with Celery("stranger", broker=url, backend=url) as plain:
        ranked = [signature("q", ["a", "b"], app=plain), signature("q", ["a"], app=plain)]
        nested = group(ranked[0], group(ranked, app=plain), app=plain)
        assert [r["scored"] for r in group(ranked, app=plain)().get(timeout=20)] == [2, 1]

        broken = signature(documents=["a"], app=plain).on_error(plain.signature("stranger.note"))
        plain.send_task(
            "rerankq.rerank", kwargs={}, queue="rerankq.bulk", link_error=plain.signature("stranger.note")
        )
        ended = chord(nested, broken, app=plain)()

        with pytest.raises(Exception, match="query: "):
            ended.get(timeout=20)
    with redis.Redis.from_url(guarded.url_of("admin")) as admin:
        service.wait_until(lambda: admin.llen("celery") == 2)


def test_keda_counts_a_lane_as_a_producer(guarded: GuardedRedis) -> None:
    with redis.Redis.from_url(guarded.url_of("producer")) as keda:
        assert keda.eval(KEDA, 1, queue_of("bulk")) == 0


def test_a_worker_that_dies_is_stood_in_for(
    service: Service, guarded: GuardedRedis, producer: RerankClient
) -> None:
    job = producer.submit("q", [f"word {number}" for number in range(1_500)], lane="bulk")
    service.wait_until(lambda: job.status().state == "running")

    service.kill(service.celery_worker("bulk"))

    assert job.result(60).scored == 1_500


def test_a_dead_letter_is_found_shown_sent_again_and_dropped(
    service: Service, guarded: GuardedRedis, producer: RerankClient
) -> None:
    job_id = _submit_worn_out(producer)
    with redis.Redis.from_url(guarded.url_of("worker")) as operator:
        letters = DeadLetters(operator)
        service.wait_until(lambda: letters.show(job_id))
        assert letters.message(job_id)

    assert json.loads(_rerankq(service, "dead", "list", "--json"))[0]["id"] == job_id
    _rerankq(service, "dead", "retry", job_id)
    assert producer.job(job_id).result(20).scored == 1
    with redis.Redis.from_url(guarded.url_of("admin")) as admin:
        admin.lpush(queue_of("bulk"), b"no message at all")
    service.wait_until(lambda: json.loads(_rerankq(service, "dead", "list", "--json")))
    letter = json.loads(_rerankq(service, "dead", "list", "--json"))[0]
    _rerankq(service, "dead", "drop", letter["id"])


def _submit_worn_out(client: RerankClient) -> str:
    """A job whose message says that it was delivered too often already."""
    message = job_submission(client.request("q", ["a"]), None, client.clock)
    for field in message.record().items():
        client._broker.ask((("HSET", keys.job(message.job_id), *field),))
    worn_out = message.message()
    worn_out["headers"][DELIVERIES_HEADER] = 4
    client._broker.ask((("LPUSH", message.queue, wire.encode(worn_out)),))
    return message.job_id


def _rerankq(service: Service, *words: str) -> str:
    """The command of an operator, who is the worker's user."""
    environment = {"RERANKQ_BROKER_URL": service.redis.url, "RERANKQ_REDIS_TIMEOUT_SECONDS": "10"}
    done = CliRunner().invoke(app, [*words], env=environment, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_an_operator_inspects_controls_and_watches(service: Service, guarded: GuardedRedis) -> None:
    with celery_app(
        "operator", guarded.url, guarded.url, socket_timeout_seconds=5, result_ttl_seconds=60
    ) as celery:
        assert len(celery.control.ping(timeout=20, limit=2)) == 2
        assert celery.control.inspect(timeout=20, limit=2).active()
        celery.control.revoke("nobody")
        with celery.connection_for_read() as connection:
            receiver = celery.events.Receiver(connection, handlers={"*": lambda _: _stop(receiver)})
            receiver.capture(limit=None, timeout=20, wakeup=True)


def _stop(receiver: Any) -> None:
    receiver.should_stop = True


def test_a_worker_is_scraped_in_every_part(guarded: GuardedRedis, producer: RerankClient) -> None:
    producer.submit("q", ["a"], lane="bulk")

    with urllib.request.urlopen(f"http://127.0.0.1:{METRICS_PORT}/metrics") as answer:
        served = answer.read().decode()

    errors = [line for line in served.splitlines() if line.startswith("rerankq_scrape_errors_total")]
    assert errors
    assert all(line.endswith(" 0.0") for line in errors), errors


def test_a_worker_stops_in_good_order(service: Service, guarded: GuardedRedis) -> None:
    service.stop_launcher()

    with redis.Redis.from_url(guarded.url) as worker:
        assert worker.hlen(keys.WORKERS) == 0


def test_the_file_is_what_the_list_of_rights_prints() -> None:
    assert USERS_ACL.read_text() == _redis_users().users_acl(), "make redis-users writes it anew"


def _redis_users() -> ModuleType:
    """`deploy/redis_users.py`, which is a script and no package."""
    spec = importlib.util.spec_from_file_location("redis_users", ROOT / "deploy" / "redis_users.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
