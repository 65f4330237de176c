"""What may lose jobs in a Redis is told by what it says of itself."""

import shutil
import time
from collections.abc import Iterator

import pytest
import redis

from rerankq.contract.risks import Risk, read_risks, redis_clients, risks
from rerankq.settings import ClientSettings
from tests.guarded_redis import GuardedRedis
from tests.redis_server import RedisServer


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """As docs/operations.md wants it."""
    with RedisServer(appendonly=True, maxmemory="100mb") as running:
        yield running


@pytest.fixture
def client(server: RedisServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(server.url, decode_responses=True) as client:
        before = client.config_get()
        yield client
        for name in ("maxmemory", "maxmemory-policy", "appendonly", "appendfsync"):
            client.config_set(name, before[name])


def names(found: list[Risk]) -> list[str]:
    return [risk.name for risk in found]


def test_a_redis_as_documented_loses_nothing(server: RedisServer) -> None:
    assert read_risks(server.client()) == []


@pytest.mark.parametrize(
    ("setting", "value", "risk", "cure"),
    [
        ("maxmemory-policy", "allkeys-lru", "eviction", "maxmemory-policy noeviction"),
        ("maxmemory-policy", "volatile-lru", "eviction", "maxmemory-policy noeviction"),
        ("maxmemory-policy", "volatile-ttl", "eviction", "maxmemory-policy noeviction"),
        ("appendonly", "no", "no_log", "appendonly yes"),
        ("appendfsync", "everysec", "fsync", "appendfsync always"),
        ("appendfsync", "no", "fsync", "appendfsync always"),
    ],
)
def test_a_setting_that_may_lose_jobs_is_named_with_its_cure(
    server: RedisServer, client: redis.Redis, setting: str, value: str, risk: str, cure: str
) -> None:
    client.config_set(setting, value)

    found = read_risks(server.client())

    assert names(found) == [risk]
    assert found[0].text.count("\n") == 0
    assert cure in found[0].text


def test_keys_that_were_dropped_are_counted(server: RedisServer, client: redis.Redis) -> None:
    for number in range(30):
        client.setrange(f"key {number}", 100_000, "x")
    client.config_set("maxmemory-policy", "allkeys-lru")
    client.config_set("maxmemory", client.info("memory")["used_memory"] - 2_000_000)
    client.set("one", "more")
    client.config_set("maxmemory", "100mb")

    dropped = client.info("stats")["evicted_keys"]

    assert dropped > 0
    assert f"({dropped:,} keys dropped so far)" in read_risks(server.client())[0].text


def test_a_policy_that_finds_no_limit_drops_nothing(server: RedisServer, client: redis.Redis) -> None:
    client.config_set("maxmemory", "0")
    client.config_set("maxmemory-policy", "allkeys-lru")

    assert read_risks(server.client()) == []


def test_a_snapshot_that_failed_is_told() -> None:
    with RedisServer(appendonly=True) as server, server.client() as client:
        shutil.rmtree(server.directory)
        client.bgsave()
        while client.info("persistence")["rdb_bgsave_in_progress"]:
            time.sleep(0.05)

        assert names(read_risks(client)) == ["snapshot"]


@pytest.mark.parametrize(
    ("field", "risk"), [("aof_last_write_status", "log_write"), ("aof_last_bgrewrite_status", "log_rewrite")]
)
def test_a_log_that_could_not_be_written_is_told(field: str, risk: str) -> None:
    assert names(risks({field: "err"})) == [risk]


def test_a_memory_that_is_nearly_full_is_told(server: RedisServer, client: redis.Redis) -> None:
    client.setrange("ballast", 5_000_000, "x")
    client.config_set("maxmemory", int(client.info("memory")["used_memory"] / 0.95))

    found = read_risks(server.client())

    assert names(found) == ["memory"]
    assert found[0].text.endswith("add workers or memory")


def test_without_a_limit_memory_is_held_against_that_of_the_machine() -> None:
    assert names(risks({"used_memory": 90, "total_system_memory": 100, "maxmemory": 0})) == ["memory"]
    assert risks({"used_memory": 80, "total_system_memory": 100, "maxmemory": 0}) == []


def test_what_a_redis_does_not_tell_is_not_held_against_it() -> None:
    assert risks({}) == []


def test_a_user_of_few_rights_asks_for_nothing_that_is_refused() -> None:
    with GuardedRedis(appendonly=True) as guarded, redis.Redis.from_url(guarded.url) as worker:
        assert read_risks(worker) == []
        assert {refused for _, _, refused in guarded.refused()} <= {"client", "client|setinfo"}


def test_the_redis_of_answers_is_judged_where_it_is_another() -> None:
    one, two = "redis://127.0.0.1:1/0", "redis://127.0.0.1:2/0"

    assert redis_clients(ClientSettings(broker_url=one), 1.0).keys() == {"broker"}
    assert redis_clients(ClientSettings(broker_url=one, result_url=one), 1.0).keys() == {"broker"}
    assert redis_clients(ClientSettings(broker_url=one, result_url=two), 1.0).keys() == {"broker", "results"}
