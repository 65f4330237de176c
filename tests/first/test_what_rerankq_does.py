"""What rerankq does, in ten facts: read this first, from top to bottom."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from celery import Celery, chain
from starlette.testclient import TestClient

import rerankq.celery
from rerankq import Cancelled, InvalidRequest, QueueFull, RerankClient
from rerankq.settings import ClientSettings
from tests.service import Service

QUERY = "What is the capital of China?"
CITIES = ["Shanghai is the largest city.", "Beijing.", "Hangzhou has a lake, and is not far from Shanghai."]
LONG = [f"document {number}" for number in range(1000)]  # 4 s of work


def test_documents_come_back_ranked_by_how_well_they_answer_the_query(client: RerankClient) -> None:
    ranking = client.rerank(QUERY, CITIES)

    assert [result.index for result in ranking] == [1, 0, 2]
    assert ranking.texts(CITIES)[0] == "Beijing."


def test_a_promise_may_be_picked_up_later_and_elsewhere_by_its_id(
    client: RerankClient, service: Service
) -> None:
    client.submit(QUERY, CITIES, job_id="order-7")

    with service.producer() as somewhere_else:
        assert somewhere_else.job("order-7").result(timeout=30)[0].index == 1


def test_a_killed_worker_loses_nothing_and_what_was_scored_is_not_scored_again(
    client: RerankClient, service: Service
) -> None:
    job = client.submit("lakes", LONG, lane="bulk")
    service.wait_until(lambda: job.progress()[0] > 0)

    service.kill(service.celery_worker("bulk"))

    ranking = job.result(timeout=60)
    assert ranking.complete
    assert ranking.usage.cached_pairs > 0


def test_a_bad_request_is_refused_before_it_is_sent(client: RerankClient) -> None:
    with pytest.raises(InvalidRequest, match="query"):
        client.submit("", CITIES, job_id="bad")

    assert client.job("bad").status().state == "unknown"


def test_a_full_lane_says_when_to_come_back(service: Service) -> None:
    settings = ClientSettings(broker_url=service.redis.url, max_interactive_jobs=1)
    with RerankClient(settings=settings) as client:
        with pytest.raises(QueueFull) as refused:
            [client.submit("lakes", LONG, job_id=f"ahead-{number}") for number in range(10)]

        assert refused.value.retry_after_seconds >= 1
        for number in range(10):
            client.job(f"ahead-{number}").cancel()


def test_a_job_that_is_called_off_stops_and_says_so(client: RerankClient) -> None:
    job = client.submit("lakes", LONG)

    job.cancel()

    assert job.status().state == "cancelled"
    with pytest.raises(Cancelled):
        job.result(timeout=30)


def test_at_its_deadline_a_job_may_answer_with_what_is_scored(client: RerankClient) -> None:
    ranking = client.rerank("cities", LONG, timeout=3.5, on_deadline="partial")

    assert not ranking.complete
    assert 0 < ranking.scored < ranking.total == len(ranking) == 1000
    assert [result.index for result in ranking if result.scored] == [
        result.index for result in ranking[: ranking.scored]
    ]


def test_a_bulk_run_that_was_killed_goes_on_by_the_same_command(service: Service, tmp_path: Path) -> None:
    given, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    rows = [{"id": number, "query": QUERY, "documents": LONG[:10]} for number in range(100)]
    given.write_text("\n".join(map(json.dumps, rows)))
    again = [sys.executable, "-m", "rerankq.cli", "bulk", str(given), str(out), "--pack-pairs", "50"]

    with subprocess.Popen(again, env=service.environment) as run:
        service.wait_until(lambda: out.exists() and out.stat().st_size)
        run.kill()
    assert run.returncode == -signal.SIGKILL
    assert subprocess.run(again, env=service.environment).returncode == 0

    assert [json.loads(line)["id"] for line in out.read_text().splitlines()] == list(range(100))


def test_a_ranking_is_a_task_among_the_tasks_of_a_celery_application(shop: Celery) -> None:
    retrieve, consume = shop.signature("shop.retrieve", args=("panda",)), shop.signature("shop.consume")

    ranked = rerankq.celery.signature(top_n=1, app=shop)

    assert chain(retrieve, ranked, consume).delay().get(timeout=30) == 3


def test_whoever_speaks_coheres_http_is_answered_in_kind(http: TestClient) -> None:
    reply = http.post(
        "/v2/rerank", json={"model": "rerank-v3.5", "query": QUERY, "documents": CITIES, "top_n": 1}
    )

    assert reply.status_code == 200
    assert [result["index"] for result in reply.json()["results"]] == [1]
