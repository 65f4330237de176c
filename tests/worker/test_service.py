"""The main job, end to end: a real Redis, real Celery workers, the real engine on the small model."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress

import pytest
from celery import Celery

from rerankq import (
    AsyncRerankClient,
    DeadlineExceeded,
    InvalidRequest,
    Ranking,
    RerankClient,
)
from rerankq.contract.errors import RerankError
from tests.service import Service

MARKER = "zanzibarium"


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with Service() as running:
        yield running


@pytest.fixture
def client(service: Service) -> RerankClient:
    return service.client


CAPITAL = "中国的首都是哪里？"
CITIES = [
    "上海是中国最大的城市和经济中心。",
    "杭州是浙江省省会，阿里巴巴总部所在地。",
    "北京烤鸭非常有名，很多人慕名而来。",
    "北京是中国的政治中心和首都。",
]


def test_a_job_comes_back_ranked(client: RerankClient) -> None:
    ranking = client.rerank(CAPITAL, CITIES, return_documents=True)

    assert ranking.results[0].document == CITIES[3]
    assert [r.index for r in ranking.results] != [0, 1, 2, 3]
    assert sorted(r.index for r in ranking.results) == [0, 1, 2, 3]
    logits = [r.logit or 0.0 for r in ranking.results]
    assert logits == sorted(logits, reverse=True)
    assert ranking.complete
    assert (ranking.scored, ranking.total, ranking.usage.pairs) == (4, 4, 4)


def test_identical_documents_tie_and_keep_the_callers_order(client: RerankClient) -> None:
    for seed in range(10):
        twin = "The panda eats bamboo. " * (seed + 1)
        others = [f"document {number} " + "panda " * (number % 23 + seed) for number in range(50)]
        documents = [text for number, text in enumerate(others) for text in (text, twin)[: 1 + number % 2]]

        ranking = client.rerank("What does a panda eat?", documents, timeout=60)

        twins = [result for result in ranking.results if documents[result.index] == twin]
        assert len({result.logit for result in twins}) == 1
        assert [result.index for result in twins] == [i for i, text in enumerate(documents) if text == twin]


def test_a_document_that_comes_again_is_scored_once_and_counted(client: RerankClient) -> None:
    ranking = client.rerank("panda", ["a panda", "a bear", "a panda", "a panda"])

    assert (ranking.scored, ranking.usage.pairs, ranking.usage.duplicate_pairs) == (4, 4, 2)


def test_texts_that_are_the_same_tokens_tie_as_well(client: RerankClient) -> None:
    same_to_the_model = ["a  panda", "a panda", " a panda "]

    ranking = client.rerank("panda", ["bamboo", *same_to_the_model, "x " * 300])

    assert len({result.logit for result in ranking.results if 1 <= result.index <= 3}) == 1
    assert ranking.usage.duplicate_pairs == 2


def test_equal_requests_of_a_pack_are_scored_once(client: RerankClient) -> None:
    request = client.request("panda", ["a panda", "a bear"], lane="bulk")

    first, second = client.send_pack([request, request]).answers(30)

    assert isinstance(first, Ranking)
    assert isinstance(second, Ranking)
    assert first.results == second.results
    assert (first.usage.duplicate_pairs, second.usage.duplicate_pairs) == (0, 2)


def test_fifty_documents_the_best_five_in_half_a_second_or_what_there_is_by_then(
    client: RerankClient,
) -> None:
    documents = [f"passage {number}: " + "bamboo and other food. " * (number % 30) for number in range(50)]
    client.rerank("panda", ["warm"], timeout=30)

    def ask() -> Ranking | None:
        with suppress(DeadlineExceeded):  # a machine full of tests may not even fetch it in time
            return client.rerank(
                "What does a panda eat?", documents, top_n=5, timeout=0.5, on_deadline="partial"
            )
        return None

    ranking = next(filter(None, (ask() for _ in range(20))))

    assert (len(ranking.results), ranking.total) == (5, 50)
    assert ranking.complete == (ranking.scored == 50)
    scores = [result.relevance_score for result in ranking.results if result.relevance_score is not None]
    assert scores == sorted(scores, reverse=True)


def test_every_ranking_tells_device_dtype_model_and_time(client: RerankClient) -> None:
    ranking = client.rerank("q", ["a", "b"])

    assert ranking.worker.name.startswith("cpu0-")
    assert (ranking.worker.device, ranking.worker.dtype) == ("cpu", "fp32")
    assert ranking.model.name == "small"
    assert ranking.model.revision
    timings = ranking.timings
    assert timings.total_seconds >= timings.queued_seconds + timings.tokenize_seconds
    assert timings.score_seconds > 0


def test_more_documents_than_one_batch_holds_are_all_scored(client: RerankClient) -> None:
    documents = [f"document {number} " + "panda " * (number % 17) for number in range(150)]

    ranking = client.rerank("panda", documents, top_n=5, timeout=60)

    assert (ranking.scored, ranking.total, len(ranking.results)) == (150, 150, 5)


def test_the_same_job_twice_gives_the_same_answer(client: RerankClient) -> None:
    first = client.submit("panda", ["a panda", "a bear"], job_id="twice").result(30)
    second = client.submit("panda", ["a panda", "a bear"], job_id="twice").result(30)

    assert first == second


def test_documents_keep_their_ids_and_the_empty_one_its_index(client: RerankClient) -> None:
    ranking = client.rerank("panda", [{"text": "a panda", "id": "p"}, "", {"text": "x", "id": "x"}])

    assert {r.index: r.id for r in ranking.results} == {0: "p", 1: None, 2: "x"}


def test_a_document_that_is_too_long_is_reported_or_refused(client: RerankClient) -> None:
    long = "panda bamboo " * 3000

    ranking = client.rerank("panda", ["short", long])
    assert {r.index: r.truncated for r in ranking.results} == {0: False, 1: True}
    assert ranking.usage.truncated_documents == 1
    with pytest.raises(InvalidRequest, match=r"documents \[1\] are longer than"):
        client.rerank("panda", ["short", long], truncation=False)


FILLER = "Der Fluss fließt ruhig durch das Tal. " * 200


def test_a_document_read_in_windows_is_found_by_its_best_part(client: RerankClient) -> None:
    report = f"{FILLER}{CITIES[3]} {FILLER}"
    asked = {"job_id": "whole", "long_documents": "windows", "lane": "bulk"}

    cut = client.rerank(CAPITAL, [*CITIES[:2], report])
    job = client.submit(CAPITAL, [*CITIES[:2], report], **asked)
    whole = job.result(timeout=30)

    assert cut[-1].index == 2
    assert (whole[0].index, whole[0].truncated) == (2, False)
    window = whole[0].window
    assert window is not None
    assert CITIES[3] in report[window.start : window.end]
    assert [result.window for result in whole[1:]] == [None, None]
    assert (whole.scored, whole.total, job.progress()[1]) == (3, 3, 3)
    assert whole.usage.pairs == 2 + window.total
    assert whole.usage.truncated_documents == 0


def test_a_threshold_leaves_out_what_is_below_it_before_the_best_are_taken(client: RerankClient) -> None:
    every = client.rerank(CAPITAL, CITIES)
    least = every[1].relevance_score or 0.0

    some = client.rerank(CAPITAL, CITIES, score_threshold=least)
    best = client.rerank(CAPITAL, CITIES, score_threshold=least, top_n=1)

    assert some.results == every[:2]
    assert best.results == every[:1]
    assert (some.scored, some.total, some.complete) == (4, 4, True)


def test_an_instruction_is_refused_by_a_model_that_reads_none(client: RerankClient) -> None:
    with pytest.raises(InvalidRequest, match="this model reads no instruction") as refused:
        client.rerank(CAPITAL, CITIES, instruction=MARKER)

    assert refused.value.details["field"] == "instruction"


def test_a_pack_gives_each_request_its_own_end(client: RerankClient) -> None:
    good = client.request("panda", ["a panda", "a bear"], lane="bulk")
    bad = client.request("panda", ["panda " * 3000], lane="bulk", truncation=False)

    answers = client.send_pack([good, bad, good]).answers(30)

    assert [isinstance(answer, RerankError) for answer in answers] == [False, True, False]
    assert isinstance(answers[1], InvalidRequest)


def test_a_plain_celery_client_may_enqueue_by_task_name(service: Service) -> None:
    plain = Celery("stranger", broker=service.redis.url, backend=service.redis.url)
    result = plain.send_task(
        "rerankq.rerank",
        kwargs={"query": "panda", "documents": ["a panda", "x"]},
        queue="rerankq.interactive",
    )

    assert result.get(timeout=30)["results"][0]["index"] == 0
    plain.close()


def test_a_strangers_bad_request_is_answered_with_a_named_error(
    service: Service, client: RerankClient
) -> None:
    plain = Celery("stranger", broker=service.redis.url, backend=service.redis.url)
    job_id = plain.send_task("rerankq.rerank", kwargs={"query": "", "docs": []}, queue="rerankq.bulk").id
    service.wait_until(lambda: client.job(job_id).status().state == "failed")

    with pytest.raises(InvalidRequest):
        client.job(job_id).result(10)
    plain.close()


def test_an_answer_is_awaited_from_asyncio(service: Service) -> None:
    async def ask() -> list[int]:
        async with AsyncRerankClient(service.redis.url) as client:
            rankings = await asyncio.gather(*(client.rerank("panda", ["x", f"panda {n}"]) for n in range(20)))
            job = await client.submit("panda", ["x", "a panda"])
            assert (await job.result(30)).results[0].index == 1
            assert await job.done()
            return [ranking.results[0].index for ranking in rankings]

    assert asyncio.run(ask()) == [1] * 20


def test_the_text_of_jobs_is_in_no_log(service: Service, client: RerankClient) -> None:
    client.rerank(MARKER, [MARKER, "x"])
    with pytest.raises(InvalidRequest):
        client.rerank(MARKER, [MARKER * 4000], truncation=False)

    service.wait_until(lambda: "outcome=failed" in service.log())
    assert MARKER not in service.log()


def test_celery_processes_never_import_torch(service: Service) -> None:
    for process in (service.celery_worker("interactive"), service.celery_child("bulk")):
        libraries = {entry.path for entry in process.memory_maps()}
        assert not [path for path in libraries if "/torch/" in path]
    assert [entry for entry in service.engine().memory_maps() if "/torch/" in entry.path]


def test_importing_the_client_loads_neither_torch_nor_the_worker_nor_celery() -> None:
    code = "import sys, rerankq; print({'torch', 'rerankq_worker', 'celery', 'redis', 'transformers'} & {*sys.modules})"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert printed.strip() == "set()"
