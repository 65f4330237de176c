"""The rows of a pack are asked for while its later texts are read; its answers are those of a pack read at once."""

import math
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from billiard.exceptions import SoftTimeLimitExceeded

from rerankq.contract.errors import DeadlineExceeded, InvalidRequest, JobFailed, RerankError
from rerankq.contract.heartbeats import names_of
from rerankq.contract.messages import Limits, Ranking
from rerankq_worker.doubles import Behaviour, DoubleEngine
from rerankq_worker.job import runner
from rerankq_worker.job.runner import Attempt, JobRunner
from rerankq_worker.job.store import JobStore
from rerankq_worker.link.client import EngineClient
from rerankq_worker.link.frames import Failed
from rerankq_worker.model.reading import Reading, Row, Unreadable
from rerankq_worker.settings import WorkerSettings
from tests.process.test_kept_connections import Said, Talk, engines
from tests.redis_server import RedisServer

INFO = DoubleEngine(WorkerSettings(), "cpu0", Behaviour()).info
LIMITS = Limits(max_documents=10, max_document_characters=100, max_request_characters=1000)
FOUR = [
    {"query": "first", "documents": ["1", "2"]},
    {"query": "second", "documents": ["3", "1"]},
    {"query": "third", "documents": ["4", "5"], "on_deadline": "partial"},
    {"query": "fourth", "documents": ["6"]},
]


class Reader:
    """A token a document, which is its text's number; does first what it is told to."""

    def __init__(self) -> None:
        self.has_read: list[str] = []
        self.before: dict[str, Callable[[], object]] = {}

    def read(self, reading: Reading) -> list[Row]:
        self.before.get(reading.query, lambda: None)()
        self.has_read.append(reading.query)
        return [_row(text, place) for place, text in enumerate(reading.documents)]


def _row(text: str, place: int) -> Row:
    return Row(np.array([int(text)], dtype=np.int32), truncated=False, document=place)


class Child:
    """A job's child: what it reads with, and what it answers to a pack of four while an engine says its lines."""

    def __init__(self, store: JobStore, socket_path: Path) -> None:
        self.reader = Reader()
        self.store = store
        self.stop_at = math.inf
        self._socket_path = socket_path

    def answers(self, *talks: Talk) -> list[Ranking | RerankError]:
        client = EngineClient(self._socket_path, wait_seconds=30)
        job = JobRunner(self.store, self.reader, client, INFO, LIMITS)
        record = self.store.look_up("job")
        attempt = Attempt("job", "bulk", 1, "w", 0.0, record, limit_seconds=60, stop_at=self.stop_at)
        with engines(self._socket_path, *((str(number), INFO, talk) for number, talk in enumerate(talks))):
            return job.run(attempt, FOUR)


@pytest.fixture
def child(redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Child]:
    monkeypatch.setattr(runner, "ROWS_AT_A_TIME", 2)
    with redis_server.client() as broker:
        broker.flushall()
        yield Child(JobStore(broker, max_payload_bytes=1_000_000, result_ttl_seconds=60), tmp_path / "s")


def _called_off(said: Said) -> None:
    said.hear()
    said.hear_the_end()


def logits_of(answers: list[Any]) -> list[list[float]]:
    return [
        [result.logit for result in sorted(answer.results, key=lambda result: result.index)]
        for answer in answers
    ]


def test_the_first_rows_of_a_pack_are_scored_before_its_last_text_is_read(child: Child) -> None:
    asked: list[list[int]] = []
    is_scored = threading.Event()

    def talk(said: Said) -> None:
        asked.append([row[0] for row in said.answer(1).rows])
        is_scored.set()
        asked.extend([row[0] for row in said.answer(logit).rows] for logit in (2, 3, 4))

    child.reader.before["fourth"] = lambda: is_scored.wait(30)
    answers = child.answers(talk)

    assert asked == [[1, 2], [3], [4, 5], [6]]
    assert logits_of(answers) == [[1, 1], [2, 1], [3, 3], [4]]
    assert [answer.usage.duplicate_pairs for answer in answers if isinstance(answer, Ranking)] == [0, 1, 0, 0]


def test_a_later_attempt_reads_all_first_and_asks_for_what_is_missing(child: Child) -> None:
    rows = [_row(text, 0) for request in FOUR for text in request["documents"]]
    known = np.array([9, 9, np.nan, 9, 9, np.nan, np.nan], dtype=np.float32)
    scored_by = (*names_of(INFO.model, INFO.revision), INFO.engine, INFO.dtype)
    child.store.save_checkpoint("job", rows, known, scored_by, scored=4)

    def talk(said: Said) -> None:
        assert [row[0] for row in said.answer(1).rows] == [3, 5, 6]
        assert child.reader.has_read == ["first", "second", "third", "fourth"]

    assert logits_of(child.answers(talk)) == [[9, 9], [1, 9], [9, 1], [1]]


def test_a_text_that_cannot_be_read_fails_its_own_request(child: Child) -> None:
    def refuse() -> None:
        raise Unreadable("query: is no text", "query")

    child.reader.before["second"] = refuse

    def talk(said: Said) -> None:
        for logit in (1, 2, 3):
            said.answer(logit)

    first, second, *others = child.answers(talk)

    assert isinstance(second, InvalidRequest)
    assert logits_of([first, *others]) == [[1, 1], [2, 2], [3]]


def test_of_a_pack_whose_time_is_up_the_unread_is_told_as_unscored(
    child: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    clock = SimpleNamespace(monotonic=lambda: now[0], perf_counter=time.perf_counter)
    monkeypatch.setattr(runner, "time", clock)
    child.stop_at = 5.0
    child.reader.before["second"] = lambda: now.append(now.pop() + 10)

    def talk(said: Said) -> None:
        assert [len(said.hear().rows), len(said.hear().rows)] == [2, 1]
        said.hear_the_end()

    third, fourth = child.answers(talk)[2:]

    assert isinstance(third, Ranking)
    assert (third.complete, third.scored, third.total) == (False, 0, 2)
    assert isinstance(fourth, DeadlineExceeded)
    assert fourth.details == {"scored": 0, "total": 1}


def test_the_soft_limit_ends_the_reading_of_a_pack_as_its_time_does(child: Child) -> None:
    def end() -> None:
        raise SoftTimeLimitExceeded

    child.reader.before["second"] = end

    with pytest.raises(DeadlineExceeded, match="while its texts were read"):
        child.answers(_called_off)


def test_a_pack_that_an_engine_refuses_half_read_is_asked_for_request_by_request(child: Child) -> None:
    def refuses(said: Said) -> None:
        said.hear()
        said.say(Failed("no"))

    def then(said: Said) -> None:
        for logit in (1, 2, 3):
            said.answer(logit)
        said.hear()
        said.say(Failed("still no"))

    answers = child.answers(refuses, then)

    assert logits_of(answers[:3]) == [[1, 1], [2, 1], [3, 3]]
    assert isinstance(answers[3], JobFailed)


def test_an_error_of_the_reading_is_never_taken_for_the_end_of_a_connection(child: Child) -> None:
    def fail() -> None:
        raise OSError("a vocabulary is away")

    child.reader.before["second"] = fail

    with pytest.raises(RuntimeError, match="OSError"):
        child.answers(_called_off)
