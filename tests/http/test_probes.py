"""What whoever looks after the face is told: it can answer, it can take jobs, it lives."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from rerankq.contract.heartbeats import Heartbeats, WorkerStatus
from rerankq.http import HttpSettings, create_app
from tests.http.conftest import Face
from tests.redis_server import RedisServer


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    """One with no worker behind it."""
    with RedisServer() as running:
        yield running


@pytest.fixture
def http(redis: RedisServer) -> Iterator[TestClient]:
    settings = HttpSettings.load(broker_url=redis.url, http_keys="secret")
    with TestClient(create_app(settings=settings)) as client:
        yield client


def test_without_a_worker_it_takes_jobs_and_says_that_it_cannot_answer(http: TestClient) -> None:
    assert http.get("/health/ready").status_code == 200
    assert http.get("/health").status_code == 503


def test_without_redis_it_is_out_of_service(http: TestClient, redis: RedisServer) -> None:
    redis.kill()

    assert http.get("/health/ready").status_code == 503


@pytest.mark.parametrize(
    ("is_there", "what"), [(True, "no worker is ready to score"), (False, "Redis does not answer")]
)
def test_health_says_which_is_missing(
    http: TestClient, redis: RedisServer, is_there: bool, what: str
) -> None:
    if not is_there:
        redis.kill()

    unwell = http.get("/health")

    assert (unwell.status_code, unwell.json()["redis"]) == (503, is_there)
    assert unwell.json()["message"].startswith(what)
    assert int(unwell.headers["Retry-After"]) >= 1


def test_health_calls_what_redis_refuses_by_its_word(http: TestClient, redis: RedisServer) -> None:
    with redis.client() as client:
        client.execute_command("ACL", "SETUSER", "default", "-hgetall", "-@scripting")

        unwell = http.get("/health")

    assert unwell.status_code == 503
    assert unwell.json()["message"].startswith("Redis refuses: NOPERM; this user may not do that")


@pytest.mark.parametrize("state", ["loading", "stuck", "broken"])
def test_a_worker_that_cannot_score_is_not_health(http: TestClient, redis: RedisServer, state: str) -> None:
    with redis.client() as client:
        Heartbeats(client).tell(WorkerStatus(name="w@h", state=state, lanes=("bulk",)))

    assert http.get("/health").json()["message"] == f"no worker is ready to score: 1 {state}"


def test_health_needs_no_key_and_no_place_and_may_be_asked_by_head(face: Face) -> None:
    http = face(http_keys="secret", http_max_waiting=1)
    http.app.state.service.waiting = 1  # type: ignore[attr-defined]

    assert http.get("/health").json() == {"status": "ok", "redis": True, "workers": 1}
    assert http.head("/health").status_code == 200


def test_models_are_listed_once_as_openai_lists_them(redis: RedisServer, http: TestClient) -> None:
    with redis.client() as client:
        for name, model in {"a": "BAAI/bge-reranker-v2-m3", "b": "BAAI/bge-reranker-v2-m3", "c": ""}.items():
            worker = WorkerStatus(name=name, state="ready", lanes=("bulk",), model=model, revision="953dc6f6")
            Heartbeats(client).tell(worker)

    listed = http.get("/v1/models", headers={"Api-Key": "secret"}).json()

    assert listed["object"] == "list"
    assert [(model["id"], model["revision"]) for model in listed["data"]] == [
        ("BAAI/bge-reranker-v2-m3", "953dc6f6")
    ]


def test_of_several_models_the_one_that_answers_what_names_none_comes_first(
    redis: RedisServer, http: TestClient
) -> None:
    with redis.client() as client:
        for name, model, revision, takes_any in (
            ("a", "a", "1", False),
            ("b", "b", "1", False),
            ("c", "b", "2", True),
        ):
            worker = WorkerStatus(
                name=name, state="ready", lanes=("bulk",), device=f"cpu-{name}", dtype="fp32"
            )
            told = replace(worker, model=model, revision=revision, engine="packed", serves_unnamed=takes_any)
            Heartbeats(client).tell(told)
    key = {"Api-Key": "secret"}

    listed = http.get("/v1/models", headers=key).json()["data"]

    assert [model["id"] for model in listed] == ["b@2", "a", "b@1"]
    assert [listed[0][fact] for fact in ("devices", "engines", "dtypes")] == [["cpu-c"], ["packed"], ["fp32"]]
    assert [model["serves_unnamed"] for model in listed] == [True, False, False]
    assert http.get("/info", headers=key).json()["model_sha"] == "2"
    assert [one["engine"] for one in http.get("/v1/state", headers=key).json()["workers"]] == ["packed"] * 3


def test_info_is_what_teis_clients_look_for(redis: RedisServer, http: TestClient, shared_data: Path) -> None:
    with redis.client() as client:
        worker = WorkerStatus(
            name="a",
            state="ready",
            lanes=("bulk",),
            model="m",
            dtype="fp16",
            max_length_tokens=2048,
            engine="packed",
        )
        Heartbeats(client).tell(worker)

    info = http.get("/info", headers={"Api-Key": "secret"}).json()

    theirs = json.loads((shared_data / "fixtures" / "tei_openapi.json").read_text())
    schema = theirs["components"]["schemas"]["Info"]
    assert info.keys() == schema["properties"].keys() | {"engine", "family", "scale"}
    assert info["engine"] == "packed"
    assert info["model_type"]["reranker"]["label2id"] == {"LABEL_0": 0}
    assert (info["max_input_length"], info["model_sha"]) == (2048, None)


def test_info_of_nobody_is_not_to_be_had(http: TestClient) -> None:
    assert http.get("/info", headers={"Api-Key": "secret"}).status_code == 503


def test_numbers_tell_what_was_asked_of_which_route_and_nothing_that_a_caller_chose(face: Face) -> None:
    http = face()
    http.post("/v1/rerank", json={"query": "panda", "documents": ["a", "b", "c"]})
    http.post("/v1/rerank", json={"query": "panda", "documents": []})
    http.get("/v1/jobs/somebodys-id")
    http.get("/no/such/place")
    http.request("SNOOP", "/v1/state")

    told = http.get("/metrics").text

    for line in (
        'rerankq_http_requests_total{route="/v1/rerank",status="200"} 1.0',
        'rerankq_http_requests_total{route="/v1/rerank",status="400"} 1.0',
        'rerankq_http_requests_total{route="/v1/jobs/{job_id}",status="404"} 1.0',
        'rerankq_http_requests_total{route="-",status="404"} 1.0',
        'rerankq_http_request_seconds_count{route="/v1/rerank"} 2.0',
        'rerankq_http_refusals_total{reason="job_unknown"} 1.0',
        "rerankq_http_documents_total 3.0",
        "rerankq_http_waiting 0.0",
    ):
        assert line in told
    assert not any(word in told for word in ("panda", "somebodys", "such", "SNOOP"))


def test_each_application_has_numbers_of_its_own(face: Face) -> None:
    one, other = face(), face()
    one.get("/health")

    assert 'route="/health"' in one.get("/metrics").text
    assert 'route="/health"' not in other.get("/metrics").text
