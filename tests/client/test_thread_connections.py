"""From threads: connections are kept from job to job, shared with nobody, and never trusted blindly."""

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis as redis_py

from rerankq import Cancelled, RerankClient, thread_connections
from rerankq.contract import keys
from rerankq.settings import ClientSettings
from tests.redis_server import RedisServer
from tests.service import Service

CHANNELS = "celery-task-meta-*"


@pytest.fixture(scope="module")
def service(idle_service: Service) -> Service:
    return idle_service


@pytest.fixture
def redis(service: Service) -> Iterator[redis_py.Redis]:
    with service.redis.client() as client:
        yield client


@pytest.fixture
def client(service: Service) -> Iterator[RerankClient]:
    with RerankClient(f"{service.redis.url}?client_name=kept") as made:
        yield made


def kept(redis: redis_py.Redis) -> list[str]:
    return sorted(each["id"] for each in redis.client_list() if each["name"] == "kept")


def subscribed(redis: redis_py.Redis) -> list[str]:
    return [each["id"] for each in redis.client_list() if each["name"] == "kept" and each["sub"] != "0"]


def calls(redis: redis_py.Redis) -> dict[str, int]:
    return {name: told["calls"] for name, told in redis.info("commandstats").items()}


def ask(client: RerankClient, times: int = 1) -> None:
    for number in range(times):
        assert client.rerank("q", [f"{number}"], timeout=30).complete


def test_one_job_after_another_is_asked_and_heard_of_by_the_same_two_connections(
    client: RerankClient, redis: redis_py.Redis
) -> None:
    ask(client)
    first, before = kept(redis), calls(redis)
    ask(client, 5)

    assert kept(redis) == first
    assert len(first) == 2
    assert calls(redis)["cmdstat_subscribe"] - before["cmdstat_subscribe"] == 5
    assert calls(redis).get("cmdstat_get", 0) - before.get("cmdstat_get", 0) <= 2 * 5  # the worker's own


def test_many_threads_leave_no_channel_and_no_more_connections_than_are_kept(
    client: RerankClient, service: Service, redis: redis_py.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thread_connections, "MOST_SPARE", 3)
    with ThreadPoolExecutor(16) as threads:
        list(threads.map(lambda _: ask(client, 10), range(16)))

    service.wait_until(lambda: not subscribed(redis))
    service.wait_until(lambda: len(kept(redis)) <= 2 * 3)


def test_what_waits_is_heard_by_each_thread_for_itself(client: RerankClient) -> None:
    jobs = [client.submit("q", ["a"] * (1 + number)) for number in range(20)]
    with ThreadPoolExecutor(20) as threads:
        totals = threads.map(lambda job: job.result(30).total, jobs)

    assert list(totals) == list(range(1, 21))


def test_a_forked_process_has_connections_of_its_own(
    client: RerankClient, service: Service, redis: redis_py.Redis
) -> None:
    ask(client)
    of_parent = kept(redis)

    def ask_and_keep() -> None:
        ask(client)
        both = kept(redis)
        ask(client, 3)
        assert kept(redis) == both
        assert len(both) == 4

    child = multiprocessing.get_context("fork").Process(target=ask_and_keep)
    child.start()
    ask(client, 3)
    child.join(30)

    assert child.exitcode == 0
    service.wait_until(lambda: kept(redis) == of_parent)


def killed_while_idle(redis: redis_py.Redis) -> None:
    for each in kept(redis):
        redis.client_kill_filter(_id=each)


def grown_old(redis: redis_py.Redis) -> None:
    thread_connections.TRUSTED_SECONDS = 0.0


@pytest.mark.parametrize("spoil", [killed_while_idle, grown_old])
def test_a_connection_that_is_kept_but_not_to_be_trusted_is_made_anew(
    client: RerankClient,
    redis: redis_py.Redis,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[redis_py.Redis], None],
) -> None:
    monkeypatch.setattr(thread_connections, "TRUSTED_SECONDS", 60.0)
    ask(client)
    before = kept(redis)

    spoil(redis)
    ask(client)

    assert not set(before) & set(kept(redis))


def test_what_was_asked_on_a_connection_that_closes_meanwhile_is_asked_again(
    client: RerankClient, redis: redis_py.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(client)
    monkeypatch.setattr(
        thread_connections.Connections, "_is_ready", lambda *_: True
    )  # it closes just after the look
    killed_while_idle(redis)

    assert client.submit("q", ["a"]).result(timeout=30).complete


def test_an_answer_that_is_not_announced_is_looked_for_and_its_listener_not_kept(
    client: RerankClient, service: Service, redis: redis_py.Redis
) -> None:
    """As of a listener whose connection somebody on the way has forgotten."""
    ask(client)
    ((listener, _),) = client._listeners._spare
    listener.send_command = lambda *_, **__: None  # it subscribes to nothing

    ask(client)

    assert all(each is not listener for each, _ in client._listeners._spare)


def test_a_closed_client_is_used_all_the_same_and_keeps_nothing(
    service: Service, redis: redis_py.Redis
) -> None:
    client = RerankClient(f"{service.redis.url}?client_name=kept")
    client.close()

    ask(client)

    service.wait_until(lambda: not kept(redis))


def test_a_restarted_redis_is_found_again_by_whoever_is_listening(service: Service) -> None:
    with RedisServer(appendonly=True) as server, RerankClient(server.url) as client:
        job = client.submit("q", ["waiting"])
        with ThreadPoolExecutor() as threads, server.client() as redis:
            ending = threads.submit(job.result, 60)
            service.wait_until(lambda: redis.pubsub_channels(CHANNELS))
            server.kill()
            server.start()
            service.wait_until(lambda: redis.pubsub_channels(CHANNELS))
            redis.publish(keys.result(job.job_id), '{"status": "REVOKED", "result": null}')

            with pytest.raises(Cancelled):
                ending.result()


def test_of_two_redis_each_is_asked_for_its_own(redis_server: RedisServer) -> None:
    with RedisServer() as other:
        settings = ClientSettings(broker_url=redis_server.url, result_url=other.url)
        with RerankClient(settings=settings) as client:
            job = client.submit("q", ["a"])
            other.client().set(keys.result(job.job_id), '{"status": "REVOKED", "result": null}')

            assert job.status().state == "cancelled"
