"""`/v1/rerank/batch`: an answer or an error each, in order; no member fails for its neighbours."""

import asyncio
from typing import Any

import pytest
from starlette.testclient import TestClient

from rerankq.contract import keys
from rerankq.http import HttpSettings, create_app
from rerankq.http.batch import MAX_REQUESTS, PATH
from tests.http.test_jobs import asking, nothing_scored
from tests.redis_server import RedisServer
from tests.service import Service

DOCUMENTS = ["a bear in the woods", "a bird"]


def asked(query: str, **more: Any) -> dict[str, Any]:
    return {"query": query, "documents": DOCUMENTS, **more}


def test_each_is_answered_in_its_own_words_and_in_order(live: TestClient) -> None:
    texts = {"query": "b", "texts": DOCUMENTS, "return_text": True}

    reply = live.post(PATH, json=[asked("a", top_n=1), texts, asked("", top_n=1), asked("d"), 7])

    assert reply.status_code == 200
    a, b, c, d, e = reply.json()["data"]
    assert [each["index"] for each in (a, b, c, d, e)] == [0, 1, 2, 3, 4]
    assert [each["status"] for each in (a, b, c, d, e)] == [200, 200, 400, 200, 422]
    assert [row["index"] for row in a["ranking"]["results"]] == [1]
    assert [row["text"] for row in b["ranking"]] == ["a bird", "a bear in the woods"]
    assert (c["error"]["param"], e["error"]["param"]) == ("query", "body")
    assert len(d["ranking"]["results"]) == 2


def test_what_is_said_for_all_holds_where_a_request_says_nothing(live: TestClient) -> None:
    requests = [{"query": "a"}, {"query": "b", "top_n": 2}, {"query": "c", "documents": ["x"], "top_n": None}]

    reply = live.post(PATH, json={"requests": requests, "documents": DOCUMENTS, "top_n": 1, "timeout": 20})

    assert [len(each["ranking"]["results"]) for each in reply.json()["data"]] == [1, 2, 1]


def test_what_a_request_says_in_another_apis_words_goes_before_what_is_said_for_all(live: TestClient) -> None:
    requests = [{"query": "a", "documents": DOCUMENTS}, {"query": "b", "input": ["x", "y", "z"], "top_k": 3}]

    reply = live.post(PATH, json={"requests": requests, "texts": ["for all"], "top_n": 2})

    assert [each["ranking"]["total"] for each in reply.json()["data"]] == [2, 3]
    assert [len(each["ranking"]["results"]) for each in reply.json()["data"]] == [2, 3]


def test_what_is_said_for_all_counts_for_each(witnessed: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rerankq.http.batch.MAX_DOCUMENTS", 10)
    settings = HttpSettings.load(broker_url=witnessed.redis.url, http_max_body_bytes=10_000)
    with TestClient(create_app(settings=settings), base_url="http://127.0.0.1") as small:
        body = {"documents": ["x" * 2_000], "requests": [{"query": "a"}] * 6}
        too_large = small.post(PATH, json=body)
        too_many = small.post(PATH, json={**body, "documents": ["x", "y"]})
        again = small.post(PATH, json={**body, "documents": ["x"]})

    for refused in (too_large, too_many):
        assert (refused.status_code, refused.json()["error"]["param"]) == (413, "requests")
    assert again.status_code == 200


REFUSED: dict[str, tuple[Any, int, str]] = {
    "nothing": ([], 400, "requests"),
    "no list": ({"requests": "all"}, 422, "requests"),
    "neither": ("all", 422, "requests"),
    "too many": ([{}] * (MAX_REQUESTS + 1), 422, "requests"),
    "no time": ({"requests": [{}], "timeout": 0}, 422, "timeout"),
}


@pytest.mark.parametrize(("body", "status", "field"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_batch_is_refused_as_a_whole(live: TestClient, body: Any, status: int, field: str) -> None:
    refused = live.post(PATH, json=body)

    assert (refused.status_code, refused.json()["error"]["param"]) == (status, field)


def test_what_is_not_done_in_time_is_called_off_and_told_for_each(
    live: TestClient, witnessed: Service
) -> None:
    with nothing_scored(witnessed):
        late = live.post(
            PATH, json={"requests": [asked("late"), asked("later")], "lane": "interactive", "timeout": 2}
        )

    assert late.status_code == 200
    assert [each["error"]["type"] for each in late.json()["data"]] == ["deadline_exceeded"] * 2


def test_many_travel_in_few_messages_on_the_bulk_lane(live: TestClient, witnessed: Service) -> None:
    with witnessed.redis.client() as redis:
        before = set(redis.keys(keys.job("*")))
        reply = live.post(PATH, json=[asked(f"of many {number}") for number in range(200)])
        made = set(redis.keys(keys.job("*"))) - before
        lanes = {redis.hget(record, "lane") for record in made}

    assert {each["status"] for each in reply.json()["data"]} == {200}
    assert (len(made), lanes) == (2, {b"bulk"})  # 400 pairs, 256 to a pack


def test_a_lane_may_be_chosen_for_each(live: TestClient, witnessed: Service) -> None:
    with witnessed.redis.client() as redis:
        before = set(redis.keys(keys.job("*")))
        live.post(PATH, json=[asked("of now", lane="interactive"), asked("of later")])
        lanes = {redis.hget(record, "lane") for record in set(redis.keys(keys.job("*"))) - before}

    assert lanes == {b"bulk", b"interactive"}


def test_a_caller_who_leaves_calls_all_of_it_off(witnessed: Service) -> None:
    async def leave() -> None:
        async with asking(witnessed) as caller:
            body = [asked("left", lane="interactive"), asked("left")]
            leaver = asyncio.create_task(caller.post(PATH, json=body))
            while len(made := set(redis.keys(keys.job("*"))) - before) < 2:
                await asyncio.sleep(0.02)
            leaver.cancel()
            await asyncio.wait({leaver})
            ids = [str(job).removeprefix(keys.job("")) for job in made]
            # a worker that has looked since has answered it as cancelled, and taken the note away
            assert all(
                redis.exists(keys.cancel(job_id)) or "Cancelled" in (redis.get(keys.result(job_id)) or "")
                for job_id in ids
            )

    with nothing_scored(witnessed), witnessed.redis.client(decode_responses=True) as redis:
        before = set(redis.keys(keys.job("*")))
        asyncio.run(leave())


def test_a_full_lane_refuses_the_whole_with_a_time_to_come_back(witnessed: Service) -> None:
    settings = HttpSettings.load(broker_url=witnessed.redis.url, max_broker_bytes=1_000_000)
    with TestClient(create_app(settings=settings), base_url="http://127.0.0.1") as full:
        refused = full.post(PATH, json=[asked("a"), asked("")])

    assert refused.status_code == 429
    assert int(refused.headers["Retry-After"]) >= 1


def test_nobody_there_refuses_the_whole(redis_server: RedisServer) -> None:
    settings = HttpSettings.load(broker_url=redis_server.url)
    with TestClient(create_app(settings=settings), base_url="http://127.0.0.1") as alone:
        assert alone.post(PATH, json=[asked("a")]).status_code == 503
        assert alone.post(PATH, json=[asked("")]).json()["data"][0]["status"] == 400
