"""What is asked over HTTP while a worker dies, or the engine of one of the requests."""

import asyncio
from typing import Any

from starlette.testclient import TestClient

from rerankq.http.batch import PATH as BATCH
from rerankq.http.jobs import PATH as JOBS
from tests.http.conftest import KILLS_THE_ENGINE
from tests.http.test_batch import asked
from tests.http.test_jobs import asking, body
from tests.service import Service


def test_one_that_kills_the_engine_takes_no_neighbour_along(live: TestClient, witnessed: Service) -> None:
    poison = {"query": "poison", "documents": [KILLS_THE_ENGINE]}

    reply = live.post(
        BATCH, json=[asked("before"), poison, asked("after")], headers={"X-Timeout-Seconds": "60"}
    )

    assert [each["status"] for each in reply.json()["data"]] == [200, 500, 200]
    assert KILLS_THE_ENGINE not in reply.text
    witnessed.wait_until(witnessed.is_ready)


def test_a_job_whose_worker_is_killed_meanwhile_is_answered(witnessed: Service) -> None:
    async def kill_meanwhile() -> Any:
        many = [f"document {number}" for number in range(500)]
        async with asking(witnessed) as caller:
            where = (await caller.post(JOBS, json=body("survives") | {"documents": many})).headers["Location"]
            waiting = asyncio.create_task(caller.get(where, params={"wait": 60}))
            while (await caller.get(where)).json()["state"] != "running":
                await asyncio.sleep(0.02)
            await asyncio.to_thread(witnessed.kill, witnessed.celery_worker("bulk"))
            return (await waiting).json()

    answer = asyncio.run(kill_meanwhile())

    assert (answer["state"], answer["scored"]) == ("done", 500)
    witnessed.wait_until(witnessed.is_ready)
