"""What KEDA is told by a real Prometheus: the queries of the component `scaling-by-age`, by value."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from prometheus_client import CollectorRegistry, start_http_server

from rerankq import RerankClient
from rerankq.contract.heartbeats import Heartbeats, WorkerStatus
from rerankq.contract.keys import digest_of
from rerankq.contract.messages import LANES, Lane
from rerankq.contract.orders import Orders
from rerankq.settings import ClientSettings
from rerankq_worker.host.metrics import RedisMetrics
from tests.deploy.kubernetes_rules import COMPONENTS, read_cluster
from tests.neighbours.environments.prometheus import Prometheus
from tests.redis_server import RedisServer, free_port

DEPLOYED, OURS, OTHER = "BAAI/bge-reranker-v2-m3", "org/ours", "org/other"
SEEN_WITHIN_SECONDS = 60.0


@dataclass(slots=True)
class Asked:
    """A Redis that two launchers tell of, and the scaler's queries for a model."""

    redis: RedisServer
    client: RerankClient
    prometheus: Prometheus

    def told(self, model: str = OURS) -> dict[str, list[float]]:
        """By the trigger's name, the values that KEDA gets; it takes one and no other number."""
        (scaler,) = (each for each in read_cluster(*COMPONENTS).manifests if each["kind"] == "ScaledObject")
        return {
            trigger["name"]: [value for _, value in self.prometheus.query(_for(trigger, model))]
            for trigger in scaler["spec"]["triggers"]
        }

    def becomes(self, is_so: Callable[[dict[str, list[float]]], bool], model: str = OURS) -> None:
        """Wait until these values are told, or fail with those that are."""
        give_up_at = time.monotonic() + SEEN_WITHIN_SECONDS
        while not is_so(told := self.told(model)):
            assert time.monotonic() < give_up_at, told
            time.sleep(0.2)


def _for(trigger: dict[str, dict[str, str]], model: str) -> str:
    query = trigger["metadata"]["query"]
    return query.replace(DEPLOYED, model).replace(digest_of(DEPLOYED), digest_of(model))


@pytest.fixture(scope="module")
def told_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Asked, list[int]]]:
    """And the launchers' ports."""
    with contextlib.ExitStack() as ended:
        redis = ended.enter_context(RedisServer(maxmemory="64mb"))
        settings = ClientSettings(broker_url=redis.url)
        client = ended.enter_context(contextlib.closing(RerankClient(settings=settings)))
        ports = [free_port(), free_port()]
        for port in ports:
            registry = CollectorRegistry()
            registry.register(RedisMetrics({"broker": redis.client()}))
            server, _ = start_http_server(port, "127.0.0.1", registry)
            ended.callback(server.server_close)
            ended.callback(server.shutdown)
        prometheus = ended.enter_context(Prometheus(tmp_path_factory.mktemp("prometheus"), "key"))
        yield Asked(redis, client, prometheus), ports


@pytest.fixture
def asked(told_of: tuple[Asked, list[int]]) -> Asked:
    """With nothing in it, as Prometheus knows."""
    asked, ports = told_of
    asked.redis.client().flushall()
    asked.prometheus.scrape(rerankq_worker=ports)
    asked.becomes(nothing_waits)
    asked.becomes(nothing_waits, OTHER)
    return asked


def jobs(asked: Asked, lane: Lane, count: int, model: str | None = None) -> None:
    for number in range(count):
        asked.client.submit(f"query {number}", ["a"], lane=lane, model=model)


def work_waits(told: dict[str, list[float]]) -> bool:
    """Four bulk jobs of which the first has waited for a while, and nothing else at all."""
    match told:
        case {"bulk-age": [age], "bulk-jobs": [4], **idle}:
            return age > 2 and nothing_waits(idle)
        case _:
            return False


def nothing_waits(told: dict[str, list[float]]) -> bool:
    return all(values == [0] for values in told.values())


@pytest.mark.parametrize("model", [None, OURS], ids=["that name none", "that name ours"])
def test_jobs_are_told_before_the_first_worker_of_their_model_and_after(
    asked: Asked, model: str | None
) -> None:
    jobs(asked, "bulk", 4, model)
    asked.becomes(work_waits)

    worker = WorkerStatus(name="w@host", state="ready", lanes=LANES, model=OURS)
    Heartbeats(asked.redis.client()).tell(worker)
    served = f'rerankq_model_workers{{model="{OURS}"}} == 1'
    asked.becomes(lambda told: work_waits(told) and len(asked.prometheus.query(served)) == 2)


@pytest.mark.parametrize("of_model", [None, OURS], ids=["the lane", "the model"])
def test_what_is_paused_is_no_work_until_it_is_resumed(asked: Asked, of_model: str | None) -> None:
    jobs(asked, "bulk", 4, OURS)
    asked.becomes(work_waits)
    orders = Orders(asked.redis.client())

    orders.pause("bulk", of_model, "somebody")
    asked.becomes(nothing_waits)
    orders.resume("bulk", of_model)
    asked.becomes(work_waits)


def test_a_pause_of_one_model_leaves_the_work_of_the_others(asked: Asked) -> None:
    jobs(asked, "bulk", 4, OURS)
    jobs(asked, "bulk", 9, OTHER)
    Orders(asked.redis.client()).pause("bulk", OTHER, "somebody")

    asked.becomes(work_waits)
    asked.becomes(nothing_waits, OTHER)


def test_where_nobody_tells_keda_gets_no_number_rather_than_none_waiting(asked: Asked) -> None:
    asked.prometheus.scrape(rerankq_worker=[])

    asked.becomes(lambda told: all(values == [] for values in told.values()))
