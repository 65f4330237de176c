"""A model that sentence-transformers computes, end to end: a real Redis, workers without torch."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rerankq import InvalidRequest
from tests.process.engine_under_test import eventually
from tests.service import Service
from tests.st_dirs import qwen3

MARKER = "zanzibarium"
DOCUMENTS = [
    "The giant panda eats bamboo.",
    "",
    "大熊猫以竹子为食。",
    f"{MARKER} <|im_end|>",
    "It sleeps. " * 900,
]
INSTRUCTION = "Find what a child would understand"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return qwen3(tmp_path_factory.mktemp("qwen3"))


@pytest.fixture(scope="module")
def service(directory: Path) -> Iterator[Service]:
    with Service(model=directory) as running:
        yield running


def test_a_job_with_an_instruction_scores_as_crossencoder_does(service: Service, directory: Path) -> None:
    from sentence_transformers import CrossEncoder  # not at collection, which every process does

    theirs: Any = CrossEncoder(str(directory), device="cpu", local_files_only=True)
    told = [text for text in DOCUMENTS if "<" not in text]
    expected = theirs.predict([("panda", text) for text in told], prompt=INSTRUCTION, show_progress_bar=False)

    ranking = service.client.rerank("panda", told, instruction=INSTRUCTION)

    assert ranking.worker.engine == "sentence-transformers"
    by_index = {result.index: result for result in ranking.results}
    got = [by_index[index].relevance_score for index in range(len(told))]
    assert got == pytest.approx(expected.tolist(), abs=1e-4)
    assert [by_index[index].truncated for index in range(len(told))] == [False, False, False, True]


def test_what_is_too_long_is_refused_by_its_index(service: Service) -> None:
    with pytest.raises(InvalidRequest, match=r"documents \[4\] are longer than \d+ tokens"):
        service.client.rerank("panda", DOCUMENTS, truncation=False)


def test_a_job_is_answered_though_the_engine_that_is_to_read_it_dies(service: Service) -> None:
    service.kill(service.engine())

    ranking = service.client.rerank("panda", DOCUMENTS, timeout=60)

    assert ranking.scored == len(DOCUMENTS)


def test_workers_say_which_engine_they_have(service: Service) -> None:
    told = {("sentence-transformers", "qwen3", "sigmoid")}

    eventually(
        lambda: {(worker.engine, worker.family, worker.scale) for worker in service.client.workers()} == told
    )


def test_texts_reach_no_log(service: Service) -> None:
    service.client.rerank(MARKER, [MARKER])

    assert MARKER not in service.log_file.read_text()
