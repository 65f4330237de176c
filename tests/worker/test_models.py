"""Several models on one Redis: a job that names one is answered by a worker of it, whoever was there first."""

import json
import signal
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Self

import pytest
from celery import Celery
from starlette.testclient import TestClient

from rerankq import JobFailed, NoWorkers, Ranking, RerankClient, RerankRequest
from rerankq.client import Pack
from rerankq.contract import keys, wire
from rerankq.contract.wire import RERANK_TASK
from rerankq.http import HttpSettings, create_app
from rerankq.submission import job_submission, pack_submission
from tests.cli.conftest import CommandInHere
from tests.service import Service, lines_of

LARGE = ["many words " * 2000] * 4


class Workers(Service):
    """The worker side alone, on the Redis of another service."""

    def __init__(self, of: Service, engine: str | None = None, **settings: Any) -> None:
        super().__init__(engine=engine, redis=of.redis, **settings)

    def __enter__(self) -> Self:
        self.client = self.producer(redis_timeout_seconds=5.0)
        self.start_launcher()
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self.stop_launcher()
        self._directory.cleanup()


def double(model: str, revision: str = "1") -> str:
    return f"rerankq_worker.doubles:slow?batch_ms=20&model={model}&revision={revision}"


@pytest.fixture(scope="module")
def alpha() -> Iterator[Service]:
    with Service(engine=double("alpha")) as running:
        yield running


@pytest.fixture(scope="module")
def client(alpha: Service) -> RerankClient:
    return alpha.client


def test_a_named_job_waits_for_a_worker_of_its_model(alpha: Service, client: RerankClient) -> None:
    early = client.submit("q", ["early"], model="gamma")
    packed = client.send_pack([client.request("q", ["early"], model="gamma@7")])
    client.rerank("q", ["other"])  # whoever is there has had its chance

    with pytest.raises(NoWorkers, match="no worker serves the model gamma; served: alpha;"):
        client.rerank("q", ["a"], model="gamma")
    assert early.status().state == "queued"
    assert (client.lanes()["interactive"], client.model_lanes()["interactive", "gamma@7"]) == (2, 1)
    with Workers(alpha, double("gamma", "7")):
        assert early.result(60).model.revision == "7"
        answers = packed.answers(60)

    assert [answer.model.name for answer in answers if isinstance(answer, Ranking)] == ["gamma"]


@pytest.fixture(scope="module")
def beta(alpha: Service) -> Iterator[Service]:
    with Workers(alpha, double("beta"), serve_unnamed=False) as running:
        yield running


@pytest.mark.usefixtures("beta")
def test_every_named_job_is_answered_by_its_model_and_the_others_by_who_takes_them(
    client: RerankClient,
) -> None:
    names = ["alpha", "beta"] * 20 + [None] * 10
    jobs = [client.submit("q", [f"{n}"], lane="bulk", model=name) for n, name in enumerate(names)]

    assert [job.result(60).model.name for job in jobs] == [*names[:40], *["alpha"] * 10]


@pytest.mark.usefixtures("beta")
def test_models_tells_each_model_with_its_workers_what_waits_for_it_and_its_share(
    alpha: Service, client: RerankClient
) -> None:
    client.submit("q", ["a"], model="nobody's")
    for model in ("alpha", "beta"):
        client.submit("q", ["a"], model=model).result(60)

    def told() -> dict[str, dict[str, Any]]:
        command = CommandInHere({**alpha.environment, "RERANKQ_REDIS_TIMEOUT_SECONDS": "10"})
        return {each["model"]: each for each in json.loads(command.run("models", "--json").out)["models"]}

    alpha.wait_until(lambda: {"alpha", "beta"} <= told().keys())
    found = told()
    assert [found[name]["serves_unnamed"] for name in ("alpha", "beta", "nobody's")] == [True, False, False]
    assert [found[name]["workers"] > 0 for name in ("alpha", "beta", "nobody's")] == [True, True, False]
    assert found["nobody's"]["waiting"] == {"interactive": 1, "bulk": 0}
    assert found["alpha"]["share"] > 0 < found["beta"]["share"]
    assert sum(each["share"] or 0 for each in found.values()) == pytest.approx(1)


@pytest.mark.usefixtures("beta")
def test_http_sends_each_request_to_the_model_that_it_names(alpha: Service) -> None:
    settings = HttpSettings.load(broker_url=alpha.redis.url, redis_timeout_seconds=5.0)
    names = [None, "beta", "a-label", "ALPHA@1", "any/beta"] * 3
    batch = [{"query": f"{n}", "documents": ["a"], "model": name} for n, name in enumerate(names)]

    with TestClient(create_app(settings=settings), base_url="http://127.0.0.1") as http:
        served = {model["id"] for model in http.get("/v1/models").json()["data"]}
        one = http.post("/v1/rerank", json=batch[1]).json()
        answers = http.post("/v1/rerank/batch", json=batch).json()["data"]

    assert ({"alpha", "beta"} <= served, one["model"]) == (True, "beta")
    models = ["alpha", "beta", "alpha", "alpha", "beta"] * 3
    assert [answer["ranking"]["model"] for answer in answers] == models


def of_before(client: RerankClient, *requests: RerankRequest) -> Pack:
    """A job or a pack as a client submits it that knows no lanes of models."""
    asked = [request.to_wire() for request in requests]
    as_one = requests[0].model_copy(update={"model": None})
    message = pack_submission([as_one], None, client.clock)
    if len(asked) == 1:
        message = replace(job_submission(requests[0], None, client.clock), model=None)
    else:
        message = replace(message, fields=wire.encode({"requests": asked}))
    client.deliver(message)
    return Pack(client, message.job_id)


BEFORE: dict[str, tuple[str, Sequence[str]]] = {
    "of the worker's model": ("alpha", ["a"]),
    "of its revision": ("alpha@1", ["a"]),
    "of another model": ("beta", ["a"]),
    "of another model's revision": ("beta@1", ["a"]),
    "in a large body": ("beta", LARGE),
}


@pytest.mark.usefixtures("beta")
@pytest.mark.parametrize(("model", "documents"), BEFORE.values(), ids=BEFORE)
def test_a_job_of_an_older_client_is_answered_by_a_worker_of_its_model(
    alpha: Service, client: RerankClient, model: str, documents: Sequence[str]
) -> None:
    job = of_before(client, client.request("q", documents, lane="bulk", model=model))

    assert job.result(60).model.name == model.partition("@")[0]
    assert job.status().attempts == 1
    with alpha.redis.client() as redis:
        alpha.wait_until(lambda: not redis.hlen(keys.HELD))
        queues = [keys.queue_of("bulk"), keys.queue_of("bulk", model)]
        assert [redis.zscore(keys.open_jobs(queue), job.job_id) for queue in queues] == [None, None]
        assert not redis.exists(keys.DEAD)


@pytest.mark.usefixtures("beta")
def test_a_job_of_an_older_client_is_handed_on_to_a_model_that_nobody_serves_yet(
    alpha: Service, client: RerankClient
) -> None:
    job = of_before(client, client.request("q", ["a"], model="delta"))

    alpha.wait_until(lambda: client.model_lanes().get(("interactive", "delta")) == 1)

    assert job.status().state == "queued"
    assert lines_of(alpha, job.job_id).count("outcome=handed_on") == 1
    assert "HandOn" not in alpha.log()


@pytest.mark.usefixtures("beta")
def test_a_plain_celery_client_may_name_a_model_on_the_lane_of_those_that_name_none(alpha: Service) -> None:
    plain = Celery("stranger", broker=alpha.redis.url, backend=alpha.redis.url)
    fields = {"query": "panda", "documents": ["a panda"], "model": "beta"}

    result = plain.send_task(RERANK_TASK, kwargs=fields, queue="rerankq.interactive")

    assert result.get(timeout=30)["model"]["name"] == "beta"
    plain.close()


@pytest.mark.usefixtures("beta")
def test_of_a_pack_that_names_two_models_those_of_the_other_are_to_be_tried_alone(
    client: RerankClient,
) -> None:
    requests = [client.request("q", ["a"], model=model) for model in ("alpha", "beta", None)]

    answers = of_before(client, *requests).answers(30)

    assert [type(answer) for answer in answers] == [Ranking, JobFailed, Ranking]


def test_a_job_whose_worker_dies_is_answered_by_another_of_its_model(
    alpha: Service, beta: Service, client: RerankClient
) -> None:
    with Workers(alpha, double("beta"), serve_unnamed=False) as second:
        words = {word for process in beta.processes() for word in process.cmdline()}
        job = client.submit("q", [f"{n}" for n in range(3200)], lane="bulk", model="beta")  # two seconds
        alpha.wait_until(lambda: job.status().state == "running")
        worker = job.status().worker
        holder = beta if worker in words else second
        holder.stop_launcher(signal.SIGKILL)

        ranking = job.result(60)

    assert (ranking.model.name, ranking.scored, job.status().attempts) == ("beta", 3200, 2)
    if holder is beta:
        beta.start_launcher()


def test_an_engine_that_comes_back_with_another_revision_answers_what_names_that_one() -> None:
    service = Service(engine="tests.witness:of_written_revision", bulk_workers=0)
    service.witness_file.write_text("1")
    with service:
        ask = service.client.rerank
        before = [ask("q", ["a"]), ask("q", ["b"], model="double@1")]
        later = service.client.submit("q", ["c"], model="double@2")
        service.witness_file.write_text("2")
        service.kill(service.engine())
        after = [later.result(60), ask("q", ["d"], model="double"), ask("q", ["e"])]
        left = service.client.submit("q", ["f"], model="double@1")

        assert [each.model.revision for each in before + after] == ["1", "1", "2", "2", "2"]
        service.wait_until(lambda: service.client.workers()[0].revision == "2")
        assert left.status().state == "queued"
        with pytest.raises(NoWorkers, match="the model double@1; served: double@2;"):
            ask("q", ["g"], model="double@1")
