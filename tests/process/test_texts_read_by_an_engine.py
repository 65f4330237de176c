"""An engine that reads texts itself gives their rows over its socket, in as many frames as they take."""

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from rerankq_worker.doubles import DIED, Behaviour, DoubleEngine
from rerankq_worker.link.client import EngineClient, EngineRefused
from rerankq_worker.model.reading import DocumentTooLong, NoInstruction, Reading, Row, Span
from rerankq_worker.settings import WorkerSettings
from tests.process.engine_under_test import EngineUnderTest

WINDOW_CHARACTERS = 100


class ReadingDouble(DoubleEngine):
    """A token per character; some words bring it down."""

    def read(self, reading: Reading) -> list[Row]:
        if reading.instruction is not None:
            raise NoInstruction
        if "die" in reading.documents:
            os._exit(DIED)
        if "sleep" in reading.documents:
            threading.Event().wait()
        if "fail" in reading.documents:
            raise RuntimeError(f"cannot read {reading.documents}")
        too_long = [index for index, text in enumerate(reading.documents) if len(text) > WINDOW_CHARACTERS]
        if too_long and not reading.truncation:
            raise DocumentTooLong(too_long, WINDOW_CHARACTERS)
        return [row for index, text in enumerate(reading.documents) for row in windows(index, text)]


def windows(index: int, text: str) -> list[Row]:
    starts = range(0, max(len(text), 1), WINDOW_CHARACTERS)
    parts = [text[start : start + WINDOW_CHARACTERS] for start in starts]
    spans = [
        Span(number, len(parts), start, start + len(part))
        for number, (start, part) in enumerate(zip(starts, parts, strict=True))
    ]
    return [
        Row(
            np.array([7, *map(ord, part)], dtype=np.int32),
            len(parts) > 1,
            index,
            span if len(parts) > 1 else None,
        )
        for part, span in zip(parts, spans, strict=True)
    ]


def engine(settings: WorkerSettings, device: str) -> ReadingDouble:
    return ReadingDouble(settings, device, Behaviour())


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineUnderTest]:
    running = EngineUnderTest(
        tmp_path_factory.mktemp("reads"), "", RERANKQ_ENGINE_FACTORY=f"{__name__}:engine"
    )
    running.start()
    yield running
    running.stop()


def test_many_texts_come_back_as_rows_in_order(reader: EngineUnderTest) -> None:
    texts = [
        "",
        "panda",
        "大熊猫 " * 40,
        *(f"text {number} " + "x" * (number % 300) for number in range(900)),
    ]
    texts += ["y" * 400_000, "the last"]

    rows = reader.client.read(Reading(query="q", documents=texts))

    expected = [row for index, text in enumerate(texts) for row in windows(index, text)]
    assert [row.token_ids.tolist() for row in rows] == [row.token_ids.tolist() for row in expected]
    assert [(row.document, row.truncated, row.span) for row in rows] == [
        (row.document, row.truncated, row.span) for row in expected
    ]


def test_documents_that_are_too_long_are_named_by_their_places_among_all(reader: EngineUnderTest) -> None:
    texts = ["short"] * 300 + ["x" * 101] + ["short"] * 300 + ["x" * 101]

    with pytest.raises(DocumentTooLong) as caught:
        reader.client.read(Reading(query="q", documents=texts, truncation=False))

    assert (caught.value.indices, caught.value.limit) == ([300, 601], WINDOW_CHARACTERS)


def test_what_cannot_be_read_as_asked_arrives_as_itself(reader: EngineUnderTest) -> None:
    with pytest.raises(NoInstruction):
        reader.client.read(Reading(query="q", documents=["a"], instruction="Find"))


def test_an_error_while_reading_ends_the_job_alone_and_tells_no_text(reader: EngineUnderTest) -> None:
    boot = reader.status.boot

    with pytest.raises(EngineRefused) as caught:
        reader.client.read(Reading(query="q", documents=["a secret", "fail"]))

    assert str(caught.value) == "its texts could not be read (RuntimeError)"
    assert len(reader.client.read(Reading(query="q", documents=["a"]))) == 1
    assert reader.status.boot == boot


def test_texts_that_an_engine_dies_of_time_and_again_are_refused(reader: EngineUnderTest) -> None:
    with pytest.raises(EngineRefused, match="died 3 times while it read"):
        reader.client.read(Reading(query="q", documents=["die"]))

    assert len(reader.client.read(Reading(query="q", documents=["a"]))) == 1


class TimeIsUp(Exception):
    pass


def once_patient() -> Callable[[], None]:
    looks = iter([None, None])

    def watch() -> None:
        if next(looks, TimeIsUp) is TimeIsUp:
            raise TimeIsUp

    return watch


def test_whoever_waits_for_an_engine_that_is_to_read_may_stop(tmp_path: Path) -> None:
    client = EngineClient(tmp_path / "none.sock", wait_seconds=60)
    client.watch = once_patient()

    with pytest.raises(TimeIsUp):
        client.read(Reading(query="q", documents=["a"]))


def test_whoever_waits_for_texts_that_are_being_read_may_stop(reader: EngineUnderTest) -> None:
    boot = reader.status.boot
    client = EngineClient(reader.socket_path, wait_seconds=60)
    client.watch = once_patient()
    with pytest.raises(TimeIsUp):
        client.read(Reading(query="q", documents=["sleep"]))

    assert len(reader.client.read(Reading(query="q", documents=["a"]))) == 1
    assert reader.status.boot == boot


def test_an_engine_that_reads_no_texts_says_so(tmp_path: Path) -> None:
    running = EngineUnderTest(tmp_path, "noop")
    running.start()
    try:
        with pytest.raises(EngineRefused, match="reads no texts"):
            running.client.read(Reading(query="q", documents=["a"]))
    finally:
        running.stop()
