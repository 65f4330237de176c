"""`/v1/jobs`: what is accepted is answered, whoever asks for it and whatever happens meanwhile."""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from rerankq import AsyncRerankClient, Cancelled, Ranking
from rerankq.aio import AsyncJob
from rerankq.contract import keys
from rerankq.http import HttpSettings, create_app
from rerankq.http.jobs import LONGEST_KEY_CHARACTERS, PATH, UNDER_WAY
from rerankq.testing import AsyncFakeRerankClient
from tests.service import Service

DOCUMENTS = ["a bear in the woods", "a bird"]
WAIT_SECONDS = 30
BASE_URL = "http://127.0.0.1"


def body(query: str, **more: Any) -> dict[str, Any]:
    return {"query": query, "documents": DOCUMENTS, **more}


def told(live: TestClient, where: str) -> Any:
    reply = live.get(where, params={"wait": WAIT_SECONDS})
    assert reply.status_code == 200, reply.text
    return reply.json()


@contextmanager
def nothing_scored(service: Service) -> Generator[None]:
    """The engine stands still."""
    engine = service.engine()
    engine.suspend()
    try:
        yield
    finally:
        engine.resume()


@asynccontextmanager
async def asking(service: Service) -> AsyncGenerator[httpx2.AsyncClient]:
    """The application in this event loop, and a caller who may ask many things at once."""
    settings = HttpSettings.load(broker_url=service.redis.url, redis_timeout_seconds=0.5)
    async with AsyncRerankClient(settings=settings) as client:
        app = httpx2.ASGITransport(create_app(client, settings))
        async with httpx2.AsyncClient(transport=app, base_url=BASE_URL, timeout=60) as caller:
            yield caller


def test_a_job_is_accepted_with_where_its_answer_will_be(live: TestClient) -> None:
    accepted = live.post(PATH, json=body("accepted", top_n=1))

    assert accepted.status_code == 202
    job = accepted.json()
    assert accepted.headers["Location"] == f"{PATH}/{job['id']}"
    assert (job["object"], job["lane"], job["total"]) == ("job", "bulk", 2)
    done = told(live, accepted.headers["Location"])
    assert (done["state"], done["scored"], done["attempts"]) == ("done", 2, 1)
    assert [row["index"] for row in done["ranking"]["results"]] == [1]
    assert "error" not in done
    assert done["submitted_at"] == pytest.approx(job["submitted_at"], abs=1)


def test_a_body_of_any_dialect_is_a_job(live: TestClient) -> None:
    texts = [{"text": DOCUMENTS[0], "id": 7}, DOCUMENTS[1]]
    accepted = live.post(PATH, json={"query": "of tei", "texts": texts, "lane": "interactive"})

    assert accepted.json()["lane"] == "interactive"
    rows = told(live, accepted.headers["Location"])["ranking"]["data"]
    assert {row["index"]: row.get("id") for row in rows} == {0: "7", 1: None}


KEYS = {
    "that can be an id": "resent-17",
    "in the standard's quotes": '"resent-18"',
    "that can be none": "搜索 / 17".encode(),
    "of dots": "..",
    "as long as may be": "k" * LONGEST_KEY_CHARACTERS,
}


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
def test_a_resend_is_the_same_job_and_scored_once(
    live: TestClient, witnessed: Service, key: str | bytes
) -> None:
    query = f"sent twice {key!r}"
    headers: Any = {"Idempotency-Key": key}

    first = live.post(PATH, json=body(query, timeout=60), headers=headers)
    answer = told(live, first.headers["Location"])
    again = live.post(PATH, json=body(query, timeout=50), headers=headers)

    assert (first.status_code, again.status_code) == (202, 202)
    assert again.headers["Location"] == first.headers["Location"]
    assert told(live, again.headers["Location"])["ranking"] == answer["ranking"]
    assert witnessed.testimony().rows_scored(query) == 2


def test_an_id_is_a_key_too(live: TestClient) -> None:
    by_id = live.post(PATH, json=body("named", id=1718)).json()
    by_key = live.post(PATH, json=body("named"), headers={"Idempotency-Key": "1718"}).json()
    by_both = live.post(PATH, json=body("named", id="1718"), headers={"Idempotency-Key": "other"}).json()

    assert by_id["id"] == by_key["id"] == by_both["id"] == "1718"


@pytest.mark.parametrize(
    ("named", "field"), [({"id": "taken"}, "id"), ({}, "Idempotency-Key")], ids=["id", "key"]
)
def test_a_name_that_is_another_requests_is_refused(
    live: TestClient, named: dict[str, str], field: str
) -> None:
    live.post(PATH, json=body("who came first", id="taken"))

    refused = live.post(PATH, json=body("who came later", **named), headers={"Idempotency-Key": "taken"})

    assert (refused.status_code, refused.json()["error"]["param"]) == (409, field)
    assert "belongs to another request" in refused.json()["message"]
    assert "who came" not in refused.text


REFUSED: dict[str, tuple[dict[str, Any], dict[str, str], str]] = {
    "a lane that is none": ({"lane": "fast"}, {}, "lane"),
    "no time": ({"timeout": 0}, {}, "timeout"),
    "a timeout in words": ({"timeout": "soon"}, {}, "timeout"),
    "a deadline in words": ({"deadline": "tomorrow"}, {}, "deadline"),
    "two deadlines": ({"deadline": 1e10, "timeout": 5}, {}, "timeout"),
    "an id that is none": ({"id": "a b"}, {}, "id"),
    "an id of dots": ({"id": ".."}, {}, "id"),
    "an id that is a list": ({"id": ["a"]}, {}, "id"),
    "an empty key": ({}, {"Idempotency-Key": ""}, "Idempotency-Key"),
    "a long key": ({}, {"Idempotency-Key": "k" * (LONGEST_KEY_CHARACTERS + 1)}, "Idempotency-Key"),
    "texts, later": ({"return_documents": True}, {}, "return_documents"),
}


@pytest.mark.parametrize(("more", "headers", "field"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_kept_is_refused_by_the_field(
    live: TestClient, more: dict[str, Any], headers: dict[str, str], field: str
) -> None:
    refused = live.post(PATH, json=body("refused", **more), headers=headers)

    assert refused.status_code == 422
    assert refused.json()["error"]["param"] == field


@pytest.mark.parametrize("texts", ["texts", "input", "documents"])
def test_an_instruction_that_the_model_does_not_read_is_refused_in_the_callers_words(
    live: TestClient, texts: str
) -> None:
    refused = live.post("/rerank", json={"query": "panda", texts: ["a bear"], "instruct": "who came"})

    assert refused.status_code == 422
    assert "this model reads no instruction" in refused.text
    assert "who came" not in refused.text


def test_a_job_has_the_rows_that_its_threshold_leaves(live: TestClient) -> None:
    job = live.post(PATH, json={"query": "panda", "documents": ["a bear"], "score_threshold": 0.9}).json()

    told = live.get(f"{PATH}/{job['id']}?wait=20").json()

    assert (told["state"], told["ranking"]["results"], told["ranking"]["total"]) == ("done", [], 1)


@pytest.mark.parametrize("wait", ["-1", "61", "nan", "inf", "soon", ""])
def test_a_wait_out_of_bounds_is_refused(live: TestClient, wait: str) -> None:
    refused = live.get(f"{PATH}/any", params={"wait": wait})

    assert (refused.status_code, refused.json()["error"]["param"]) == (422, "wait")


def test_a_job_nobody_knows_is_not_found(live: TestClient) -> None:
    assert live.get(f"{PATH}/nobody's").status_code == 404
    assert live.delete(f"{PATH}/nobody's").status_code == 404
    assert live.get(f"{PATH}/%00").status_code == 422


def test_a_pack_is_no_job(live: TestClient, witnessed: Service) -> None:
    client = witnessed.client
    pack = client.send_pack([client.request("of a pack", DOCUMENTS)])

    refused = live.get(f"{PATH}/{pack.job_id}", params={"wait": WAIT_SECONDS})

    assert refused.status_code == 422
    assert "is a pack of 1 requests" in refused.json()["message"]


def test_a_job_that_fails_says_so_as_any_request_would(live: TestClient) -> None:
    accepted = live.post(PATH, json=body("too late", deadline=time.time() - 1))

    late = told(live, accepted.headers["Location"])

    assert late["state"] == "expired"
    assert (late["error"]["type"], late["error"]["code"]) == ("deadline_exceeded", 504)
    assert "ranking" not in late


def test_a_job_under_way_is_told_with_a_time_to_ask_again(live: TestClient, witnessed: Service) -> None:
    with nothing_scored(witnessed):
        accepted = live.post(PATH, json=body("under way"))
        standing = live.get(accepted.headers["Location"], params={"wait": 0.1})

    assert standing.json()["state"] in UNDER_WAY
    assert int(standing.headers["Retry-After"]) >= 1
    assert told(live, accepted.headers["Location"])["state"] == "done"


def test_a_job_is_called_off_as_often_as_one_likes(live: TestClient, witnessed: Service) -> None:
    with nothing_scored(witnessed):
        live.post(PATH, json=body("keeps the worker busy"))
        where = live.post(PATH, json=body("called off")).headers["Location"]
        assert live.delete(where).status_code == 204
        assert live.delete(where).status_code == 204
    off = told(live, where)

    assert (off["state"], off["error"]["type"]) == ("cancelled", "cancelled")
    assert live.delete(where).status_code == 204


def test_a_job_that_is_answered_stays_so(live: TestClient) -> None:
    where = live.post(PATH, json=body("answered")).headers["Location"]
    told(live, where)

    refused = live.delete(where)

    assert refused.status_code == 409
    assert told(live, where)["state"] == "done"


def test_a_job_that_is_answered_while_it_is_called_off_is_told_as_answered(
    live: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = live.post(PATH, json=body("bear")).headers["location"]
    assert told(live, where)["state"] == "done"
    whole, heard = AsyncJob.result, iter([Cancelled("just before")])

    async def late(job: AsyncJob, timeout: float | None = None) -> Ranking:
        for error in heard:
            raise error
        return await whole(job, timeout)

    monkeypatch.setattr(AsyncJob, "result", late)

    assert "ranking" in told(live, where)


def test_fifty_who_wait_take_no_thread_and_hear_at_once(witnessed: Service) -> None:
    async def wait_for_one() -> None:
        async with asking(witnessed) as caller:
            with nothing_scored(witnessed):
                where = (await caller.post(PATH, json=body("for fifty"))).headers["Location"]
                before = threading.active_count()
                waiting = [
                    asyncio.create_task(caller.get(where, params={"wait": WAIT_SECONDS})) for _ in range(50)
                ]
                await asyncio.sleep(0.5)
                assert not any(task.done() for task in waiting)
                assert threading.active_count() == before
                assert len(witnessed.redis.client().client_list()) < 30
            answers = await asyncio.gather(*waiting)
        assert {answer.json()["state"] for answer in answers} == {"done"}

    asyncio.run(wait_for_one())


def test_a_caller_who_leaves_takes_nobody_along(witnessed: Service) -> None:
    async def leave() -> Any:
        async with asking(witnessed) as caller:
            with nothing_scored(witnessed):
                where = (await caller.post(PATH, json=body("left alone"))).headers["Location"]
                leaver = asyncio.create_task(caller.get(where, params={"wait": WAIT_SECONDS}))
                await asyncio.sleep(0.1)
                leaver.cancel()
            return (await caller.get(where, params={"wait": WAIT_SECONDS})).json()

    assert asyncio.run(leave())["state"] == "done"


def test_a_redis_that_restarts_meanwhile_costs_no_answer(witnessed: Service) -> None:
    async def restart_meanwhile() -> Any:
        async with asking(witnessed) as caller:
            with nothing_scored(witnessed):
                where = (await caller.post(PATH, json=body("rides it out"))).headers["Location"]
                waiting = asyncio.create_task(caller.get(where, params={"wait": WAIT_SECONDS}))
                await asyncio.sleep(0.2)
                witnessed.redis.kill()
                await asyncio.sleep(0.7)
                witnessed.redis.start()
            return (await waiting).json()

    assert asyncio.run(restart_meanwhile())["state"] == "done"
    witnessed.wait_until(witnessed.is_ready)


def test_a_job_that_redis_lost_says_so_and_is_made_anew_when_sent_again(
    live: TestClient, witnessed: Service
) -> None:
    with nothing_scored(witnessed), witnessed.redis.client() as redis:
        live.post(PATH, json=body("keeps the worker busy still"))
        where = live.post(PATH, json=body("lost", id="lost")).headers["Location"]
        redis.delete(keys.queue_of("bulk"))

    assert told(live, where)["error"]["message"] == "the queue lost the job; send it again"
    assert live.post(PATH, json=body("lost", id="lost")).headers["Location"] == where
    assert told(live, where)["state"] == "done"


def test_the_answer_of_a_mounted_application_is_where_it_says(fake: AsyncFakeRerankClient) -> None:
    outer = Starlette(routes=[Mount("/reranking", create_app(fake, HttpSettings.load()))])
    caller = TestClient(outer, base_url=BASE_URL)

    accepted = caller.post(f"/reranking{PATH}", json=body("mounted"))

    assert accepted.headers["Location"].startswith(f"/reranking{PATH}/")
    assert caller.get(accepted.headers["Location"]).json()["state"] == "done"
    assert caller.get("/reranking/openapi.json").json()["servers"] == [{"url": "/reranking"}]
