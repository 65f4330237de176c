"""A client's connection to an engine outlives the job, and none of what may happen to it between two jobs harms one."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.connection import Listener
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rerankq_worker.doubles import Behaviour, DoubleEngine
from rerankq_worker.link import frames
from rerankq_worker.link.client import EngineAway, EngineChanged, EngineClient
from rerankq_worker.link.frames import Frame, Hello, Leaving, RowsToScore, Running, Scores
from rerankq_worker.scoring import EngineInfo, TokenIds
from rerankq_worker.settings import WorkerSettings
from tests.process.conftest import StartEngine
from tests.process.engine_under_test import eventually, rows_of

Talk = Callable[["Said"], None]
INFO = DoubleEngine(WorkerSettings(), "cpu0", Behaviour()).info


class Said:
    """One connection, as a scripted engine has it."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def say(self, frame: Frame) -> None:
        self._connection.send_bytes(frames.encode(frame))

    def hear(self) -> RowsToScore:
        frame = frames.decode(self._connection.recv_bytes())
        assert isinstance(frame, RowsToScore)
        return frame

    def answer(self, logit: float) -> RowsToScore:
        """Score the next rows, each the same."""
        ask = self.hear()
        self.say(Running(ask.indices))
        self.say(Scores(ask.indices, np.full(len(ask.rows), logit, dtype=np.float32)))
        return ask

    def hear_the_end(self) -> None:
        with pytest.raises(EOFError):
            self._connection.recv_bytes()


@contextmanager
def engines(socket_path: Path, *talks: tuple[str, EngineInfo, Talk]) -> Iterator[None]:
    """A connection for each: the boot of the engine behind it, what it holds, and what it says after its greeting."""
    failures: list[BaseException] = []

    def serve() -> None:
        for boot, info, talk in talks:
            try:
                with listener.accept() as connection:
                    connection.send_bytes(frames.encode(Hello(boot, info)))
                    talk(Said(connection))
            except BaseException as error:  # noqa: BLE001 - told by the test's own thread
                failures.append(error)

    with Listener(str(socket_path), "AF_UNIX", 8) as listener:
        server = threading.Thread(target=serve)
        server.start()
        yield
        server.join(30)
        assert not server.is_alive()
    assert failures == []


def scores(client: EngineClient, *, job_id: str, rows: int = 1) -> list[float]:
    logits = np.zeros(rows, dtype=np.float32)
    for scored in client.scores(rows_of(*[3] * rows), job_id=job_id, lane="bulk"):
        logits[scored.indices] = scored.logits
    return logits.tolist()


@pytest.fixture
def socket_path(tmp_path: Path) -> Path:
    return tmp_path / "cpu0.sock"


def test_one_connection_serves_what_is_described_and_job_after_job(socket_path: Path) -> None:
    client = EngineClient(socket_path, wait_seconds=30)

    def talk(said: Said) -> None:
        assert [said.answer(1).job_id, said.answer(2).job_id] == ["one", "two"]

    with engines(socket_path, ("a", INFO, talk)):
        assert client.describe() == INFO
        assert scores(client, job_id="one") == [1]
        assert client.describe() == INFO
        assert scores(client, job_id="two") == [2]


def test_an_engine_counts_each_job_of_a_connection(start_engine: StartEngine) -> None:
    engine = start_engine("noop")

    for number in range(3):
        engine.scores(rows_of(1), job_id=f"job-{number}", lane="interactive")

    eventually(lambda: engine.status.jobs == {"interactive": 3, "bulk": 0})


@pytest.mark.parametrize(
    "last_words",
    [
        pytest.param(lambda _: None, id="its end"),
        pytest.param(lambda said: said.say(Leaving()), id="that it leaves"),
        pytest.param(
            lambda said: said.say(Scores(np.array([0], np.int32), np.array([-7], np.float32))),
            id="a late score",
        ),
    ],
)
def test_what_comes_between_two_jobs_ends_the_connection_and_is_no_answer(
    socket_path: Path, last_words: Talk
) -> None:
    client = EngineClient(socket_path, wait_seconds=30)
    has_said = threading.Event()

    def first(said: Said) -> None:
        said.answer(1)
        last_words(said)
        has_said.set()

    def second(said: Said) -> None:
        assert not said.answer(2).suspect

    with engines(socket_path, ("a", INFO, first), ("b", INFO, second)):
        assert scores(client, job_id="one") == [1]
        assert has_said.wait(30)
        assert scores(client, job_id="two") == [2]


@pytest.mark.parametrize("is_told", [True, False], ids=["told", "killed"])
def test_rows_sent_to_an_engine_that_has_just_gone_are_no_suspects(socket_path: Path, is_told: bool) -> None:
    client = EngineClient(socket_path, wait_seconds=30)

    def first(said: Said) -> None:
        said.answer(1)
        said.hear()
        if is_told:
            said.say(Leaving())

    def second(said: Said) -> None:
        assert not said.answer(2).suspect

    with engines(socket_path, ("a", INFO, first), ("b", INFO, second)):
        scores(client, job_id="one")

        assert scores(client, job_id="two") == [2]


def test_another_model_is_noticed_behind_a_connection_that_was_kept(socket_path: Path) -> None:
    client = EngineClient(socket_path, wait_seconds=30)
    other = replace(INFO, model="another")

    def first(said: Said) -> None:
        said.answer(1)
        said.hear()

    with engines(
        socket_path, ("a", INFO, first), ("b", other, Said.hear_the_end), ("b", other, lambda _: None)
    ):
        client.describe()
        scores(client, job_id="one")

        with pytest.raises(EngineChanged):
            scores(client, job_id="two")

        assert client.describe() == other


def test_a_job_called_off_ends_its_connection_and_the_next_has_its_own(socket_path: Path) -> None:
    client = EngineClient(socket_path, wait_seconds=30)

    def first(said: Said) -> None:
        ask = said.hear()
        said.say(Scores(ask.indices[:1], np.array([1], np.float32)))
        said.hear_the_end()

    with engines(socket_path, ("a", INFO, first), ("a", INFO, lambda said: said.answer(2))):
        answers = client.scores(rows_of(3, 3), job_id="one", lane="bulk")
        next(answers)
        answers.close()

        assert scores(client, job_id="two", rows=2) == [2, 2]


def test_an_engine_that_freezes_between_two_jobs_counts_as_away(socket_path: Path) -> None:
    client = EngineClient(socket_path, wait_seconds=2)
    is_over = threading.Event()

    def first(said: Said) -> None:
        said.answer(1)
        is_over.wait(30)

    with engines(socket_path, ("a", INFO, first)):
        scores(client, job_id="one")

        with pytest.raises(EngineAway, match="said nothing"):
            scores(client, job_id="two")
        is_over.set()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # what is forked here does nothing but ask
def test_a_forked_process_asks_over_a_connection_of_its_own(start_engine: StartEngine) -> None:
    engine = start_engine("noop")
    assert engine.scores(rows_of(3)).tolist() == [-3]

    child = os.fork()
    if child == 0:
        is_right = engine.scores(rows_of(4)).tolist() == [-4]
        os._exit(not is_right)
    _, status = os.waitpid(child, 0)

    assert os.waitstatus_to_exitcode(status) == 0
    assert engine.scores(rows_of(5)).tolist() == [-5]


def test_an_engine_told_to_stop_takes_no_further_job_over_a_kept_connection(
    start_engine: StartEngine,
) -> None:
    engine = start_engine("slow?batch_ms=200", RERANKQ_MAX_BATCH_PAIRS="2")
    boot = engine.status.boot
    engine.scores(rows_of(3), job_id="before")
    running = engine.ask(rows_of(*[5] * 24), job_id="running")
    eventually(lambda: engine.status.jobs["bulk"] == 2)

    engine.process.terminate()
    eventually(lambda: engine.status.state == "leaving")
    later = [engine.ask(rows_of(3), job_id=f"later {number}") for number in range(3)]

    assert running.result().tolist() == [-5] * 24
    assert [job.result().tolist() for job in later] == [[-3]] * 3
    assert engine.exit_codes == [0]
    eventually(lambda: engine.status.boot != boot and engine.status.jobs["bulk"] == 3)


def test_rows_that_are_read_later_are_counted_on_and_asked_for_once_the_first_are_on_their_way(
    socket_path: Path,
) -> None:
    client, events = EngineClient(socket_path, wait_seconds=30), []

    def talk(said: Said) -> None:
        events.append(said.answer(1).indices.tolist())
        is_heard.set()
        events.append(said.answer(2).indices.tolist())

    def read() -> Iterator[list[TokenIds]]:
        assert is_heard.wait(30)
        events.append("read")
        yield rows_of(4)

    is_heard = threading.Event()
    with engines(socket_path, ("a", INFO, talk)):
        told = [
            (scored.indices.tolist(), scored.logits.tolist())
            for scored in client.scores(rows_of(3, 3), more=read(), job_id="one", lane="bulk")
            if len(scored.indices)
        ]

    assert events == [[0, 1], "read", [2]]
    assert told == [([0, 1], [1, 1]), ([2], [2])]


def test_an_engine_that_dies_while_further_rows_are_read_is_asked_for_those_of_before_again(
    socket_path: Path,
) -> None:
    client = EngineClient(socket_path, wait_seconds=30)
    has_died = threading.Event()

    def dying(said: Said) -> None:
        said.say(Running(said.hear().indices[:1]))
        has_died.set()

    def successor(said: Said) -> None:
        asks = [said.answer(1) for _ in range(3)]
        assert [(ask.indices.tolist(), ask.suspect) for ask in asks] == [
            ([1, 2], False),
            ([0], True),
            ([3], False),
        ]

    def read() -> Iterator[list[TokenIds]]:
        assert has_died.wait(30)
        yield rows_of(4)
        yield rows_of(5)

    with engines(socket_path, ("a", INFO, dying), ("b", INFO, successor)):
        logits = np.full(4, np.nan)
        for scored in client.scores(rows_of(3, 3), more=read(), job_id="one", lane="bulk"):
            logits[scored.indices] = scored.logits

    assert logits.tolist() == [1, 1, 1, 1]
