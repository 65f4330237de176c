"""Redis answers, and with an error: a replica, too few replicas, a disk that takes no snapshot, a new password."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from rerankq import BrokerUnavailable, RerankClient
from tests.faults.conftest import documents
from tests.service import Service

Redis = Any


def save_and_wait(redis: Redis, status: str, service: Service) -> None:
    redis.bgsave()
    service.wait_until(lambda: redis.info("persistence")["rdb_last_bgsave_status"] == status)


def break_the_snapshot(redis: Redis, service: Service) -> None:
    redis.config_set("save", "900 1")  # without a save point a failed snapshot refuses nothing
    (service.redis.directory / "dump.rdb").mkdir()
    redis.set("changed", 1, ex=60)
    save_and_wait(redis, "err", service)


def mend_the_snapshot(redis: Redis, service: Service) -> None:
    (service.redis.directory / "dump.rdb").rmdir()
    save_and_wait(redis, "ok", service)
    redis.config_set("save", "")


def change_the_password(redis: Redis, service: Service) -> None:
    redis.config_set("requirepass", "another")
    redis.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


REFUSALS: dict[str, tuple[Callable[..., object], Callable[..., object]]] = {
    "READONLY": (
        lambda redis, _: redis.replicaof("127.0.0.1", "1"),
        lambda redis, _: redis.replicaof("NO", "ONE"),
    ),
    "NOREPLICAS": (
        lambda redis, _: redis.config_set("min-replicas-to-write", 3),
        lambda redis, _: redis.config_set("min-replicas-to-write", 0),
    ),
    "MISCONF": (break_the_snapshot, mend_the_snapshot),
    "NOAUTH": (change_the_password, lambda redis, _: redis.config_set("requirepass", "")),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_worker_stays_while_redis_refuses_and_answers_as_soon_as_it_does_not(
    service: Service, client: RerankClient, name: str
) -> None:
    """Under load: some answers cannot be stored, some leases not renewed."""
    refuse, serve = REFUSALS[name]
    workers = service.celery_worker("bulk").pid, service.celery_worker("interactive").pid
    jobs = [client.submit(f"{name} {n}", documents(60), lane="bulk") for n in range(8)]
    service.wait_until(lambda: any(job.status().state == "running" for job in jobs))
    seen = len(service.log().splitlines())

    with service.redis.client() as redis:
        refuse(redis, service)
        with pytest.raises(BrokerUnavailable), service.producer() as producer:
            producer.submit("refused", ["a"])
        time.sleep(3.5)  # longer than a lease: nobody may be taken for dead afterwards
        serve(redis, service)

    assert client.rerank("served", ["a"]).complete
    assert [job.result(60).complete for job in jobs] == [True] * len(jobs)
    assert workers == (service.celery_worker("bulk").pid, service.celery_worker("interactive").pid)
    told = service.log().splitlines()[seen:]
    outages = [line for line in told if "Redis does not serve us" in line]
    assert len(outages) <= 4
    assert all(len(line) < 300 for line in outages)
    assert len([line for line in told if "no heartbeat" in line]) <= 4
    assert len(told) < 150
    assert not [line for line in told if "Traceback" in line or "gave no sign of life" in line]


def test_a_worker_whose_wait_is_broken_off_waits_again(service: Service, client: RerankClient) -> None:
    with service.redis.client() as redis:
        service.wait_until(lambda: [c for c in redis.client_list() if c["cmd"] == "brpop"])
        waiting = [c["id"] for c in redis.client_list() if c["cmd"] == "brpop"]
        for client_id in waiting:
            redis.execute_command("CLIENT", "UNBLOCK", client_id, "ERROR")

    assert client.rerank("after it", ["a"]).complete


def test_a_worker_that_starts_while_redis_refuses_waits_for_it(
    service: Service, client: RerankClient
) -> None:
    refuse, serve = REFUSALS["READONLY"]
    with service.redis.client() as redis:
        seen = len(service.log())
        refuse(redis, service)
        service.kill(service.celery_worker("interactive"))
        service.wait_until(lambda: "worker cpu0-interactive: started" in service.log()[seen:])
        begun = service.log().index("worker cpu0-interactive: started", seen)
        service.wait_until(lambda: "Redis does not serve us" in service.log()[begun:], 60)
        serve(redis, service)

    assert client.rerank("after it", ["a"], timeout=20).complete
    assert "cpu0-interactive: ended with" not in service.log()[seen:]
