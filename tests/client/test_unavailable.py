"""A Redis that is away or refuses: which was tried, and what helps, in one line."""

import asyncio
from typing import Any

import pytest

from rerankq import AsyncRerankClient, BrokerUnavailable, QueueFull, RerankClient
from rerankq.bulk import rerank_many
from rerankq.contract import keys
from rerankq.settings import ClientSettings
from tests.redis_server import RedisServer

WAYS_OUT = ("`rerankq up`", "RERANKQ_BROKER_URL", "`--local`")


def told(settings: ClientSettings) -> list[str]:
    """What both clients say of one and the same outage."""

    async def ask() -> None:
        async with AsyncRerankClient(settings=settings) as client:
            await client.rerank("q", ["a"], timeout=1)

    with pytest.raises(BrokerUnavailable) as by_loop:
        asyncio.run(ask())
    with pytest.raises(BrokerUnavailable) as by_thread, RerankClient(settings=settings) as client:
        client.rerank("q", ["a"], timeout=1)
    return [str(by_loop.value), str(by_thread.value)]


AWAY = {
    "a host": ("redis://me:sesame@127.0.0.1:1/3", "127.0.0.1:1, database 3"),
    "ipv6": ("redis://:sesame@[::1]:1", "[::1]:1, database 0"),
    "a socket": ("unix://:sesame@/run/AWAY/r.sock?db=2", "/run/AWAY/r.sock, database 2"),
    "sentinels": (
        "sentinel://:sesame@127.0.0.1:1/1;sentinel://:sesame@127.0.0.1:2/1?master_name=shop",
        "sentinels 127.0.0.1:1, 127.0.0.1:2, master shop, database 1",
    ),
}


@pytest.mark.parametrize(("url", "shown"), AWAY.values(), ids=AWAY)
def test_an_address_without_a_redis_is_named_and_what_helps(url: str, shown: str) -> None:
    for message in told(ClientSettings(broker_url=url)):
        assert message.startswith(f"Redis ({shown}) did not answer while ")
        assert all(way in message for way in WAYS_OUT)
        assert "sesame" not in message
        assert len(message.splitlines()) == 1


REFUSED = {
    "a wrong user": ("redis://me:sesame@", "0", "wrong user or password, or none"),
    "a database that is not there": ("redis://", "99", "no such database"),
}


@pytest.mark.parametrize(("start", "database", "why"), REFUSED.values(), ids=REFUSED)
def test_a_redis_that_refuses_is_named_and_starting_another_does_not_help(
    start: str, database: str, why: str, redis_server: RedisServer
) -> None:
    url = redis_server.url.replace("redis://", start).removesuffix("0") + database

    for message in told(ClientSettings(broker_url=url)):
        assert message.startswith(
            f"Redis (127.0.0.1:{redis_server.port}, database {database}) refused while "
        )
        assert f": {why}; " in message
        assert "RERANKQ_BROKER_URL gives Redis, user, password and database" in message


def test_a_redis_that_asks_for_a_password_is_told_alike_by_both_clients() -> None:
    with RedisServer(requirepass="sesame") as closed:
        messages = told(ClientSettings(broker_url=closed.url.replace(":sesame@", "")))

    assert len(set(messages)) == 1
    assert "wrong user or password, or none" in messages[0]


def test_a_full_redis_is_a_full_queue_whatever_helps_elsewhere() -> None:
    with (
        RedisServer(maxmemory="100kb") as full,
        RerankClient(full.url) as client,
        pytest.raises(QueueFull) as caught,
    ):
        client.submit("q", ["a"])

    assert not any(way in str(caught.value) for way in WAYS_OUT)


def test_a_full_redis_still_lets_jobs_be_called_off() -> None:
    with RedisServer() as full, full.client() as redis, RerankClient(full.url) as client:
        redis.config_set("maxmemory", 1)

        client.cancel("unwanted")

        assert redis.exists(keys.cancel("unwanted"))


def test_of_two_redis_that_of_the_answers_is_named_where_it_is_the_one_away(
    redis_server: RedisServer,
) -> None:
    settings: Any = {"broker_url": redis_server.url, "result_url": "redis://127.0.0.1:1/0"}
    settings = ClientSettings(**settings, bulk_patience_seconds=0)
    with RerankClient(settings=settings) as client:
        job = client.submit("q", ["a"])

        for ask in (lambda: job.result(timeout=0.1), lambda: client.status(job.job_id)):
            with pytest.raises(BrokerUnavailable, match=r"^Redis \(127\.0\.0\.1:1, database 0\) did not"):
                ask()


def test_bulk_names_the_redis_too() -> None:
    settings = ClientSettings(broker_url="redis://127.0.0.1:1/0", bulk_patience_seconds=0)
    with RerankClient(settings=settings) as client, pytest.raises(BrokerUnavailable) as caught:
        list(rerank_many([{"query": "q", "documents": ["a"]}], client))

    assert "(127.0.0.1:1, database 0)" in str(caught.value)
