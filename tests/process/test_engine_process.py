"""An engine process and its clients: what they do for each other while all is well, and when it is not."""

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rerankq_worker.link import health
from rerankq_worker.link.client import (
    EngineAway,
    EngineClient,
    EngineKilledTwice,
    EngineRefused,
)
from tests.process.conftest import StartEngine
from tests.process.engine_under_test import PATIENCE_SECONDS, EngineUnderTest, eventually, expected, rows_of

POISON = 666
WITHOUT_A_NUMBER = 667


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineUnderTest]:
    """For whoever leaves it as it was."""
    limits = {"RERANKQ_MAX_BATCH_PAIRS": "4", "RERANKQ_MAX_LENGTH_TOKENS": "64"}
    running = EngineUnderTest(tmp_path_factory.mktemp("engine"), f"noop?nan={WITHOUT_A_NUMBER}", **limits)
    running.start()
    yield running
    running.stop()


def test_scores_come_batch_by_batch_under_the_index_of_their_row(engine: EngineUnderTest) -> None:
    rows = rows_of(3, 9, 1, 7, 5, 8, 2, 6, 4)

    pieces = [piece for piece in engine.client.scores(rows, job_id="job", lane="bulk") if len(piece.indices)]

    assert [len(piece.indices) for piece in pieces] == [4, 4, 1]
    assert pieces[0].logits.tolist() == [-9, -8, -7, -6]
    assert np.concatenate([piece.indices for piece in pieces]).tolist() == [1, 5, 3, 7, 4, 8, 0, 6, 2]


def test_the_engine_tells_what_it_holds(engine: EngineUnderTest) -> None:
    description = engine.client.describe()

    assert (description.max_batch_pairs, description.max_length_tokens) == (4, 64)


def test_jobs_of_several_clients_share_a_batch(start_engine: StartEngine) -> None:
    engine = start_engine("slow?batch_ms=800")
    first = engine.ask(rows_of(1))
    eventually(lambda: engine.status.jobs["bulk"] == 1)

    others = [engine.ask(rows_of(length)) for length in (2, 3, 4)]

    assert [job.result().tolist() for job in (first, *others)] == [[-1], [-2], [-3], [-4]]
    eventually(lambda: engine.status.pairs == 4)
    assert engine.status.batches < 4


def test_an_interactive_job_overtakes_bulk_between_two_batches(start_engine: StartEngine) -> None:
    engine = start_engine("slow?batch_ms=50", RERANKQ_MAX_BATCH_PAIRS="2")
    bulk = engine.ask(rows_of(*[5] * 100), lane="bulk")
    eventually(lambda: engine.status.batches > 0)

    engine.scores(rows_of(3), job_id="hurry", lane="interactive")

    assert not bulk.done()
    assert len(bulk.result()) == 100


def test_closing_the_iterator_calls_the_rest_off(start_engine: StartEngine) -> None:
    engine = start_engine("slow?batch_ms=50", RERANKQ_MAX_BATCH_PAIRS="2")
    scores = engine.client.scores(rows_of(*[5] * 200), job_id="job", lane="bulk")
    next(piece for piece in scores if len(piece.indices))

    scores.close()  # type: ignore[attr-defined]

    eventually(lambda: engine.status.state == "ready" and engine.status.waiting_rows["bulk"] == 0)
    assert engine.status.pairs < 200


def test_a_caller_gets_a_look_at_its_clock_while_a_pass_is_long(start_engine: StartEngine) -> None:
    engine = start_engine("slow?batch_ms=1200")

    pieces = list(engine.client.scores(rows_of(5), job_id="job", lane="bulk"))

    assert sum(len(piece.indices) == 0 for piece in pieces) >= 2


def test_jobs_whose_engine_is_killed_in_mid_batch_are_all_answered(start_engine: StartEngine) -> None:
    engine = start_engine("slow?batch_ms=100", RERANKQ_MAX_BATCH_PAIRS="8")
    jobs = [rows_of(*range(1 + number, 30 + number)) for number in range(6)]
    answers = [engine.ask(rows) for rows in jobs]
    eventually(lambda: engine.status.batches >= 2)

    engine.kill()

    for rows, answer in zip(jobs, answers, strict=True):
        assert answer.result().tolist() == expected(rows).tolist()
    assert engine.exit_codes == [-signal.SIGKILL]


def test_what_was_scored_before_the_death_is_not_scored_again(start_engine: StartEngine) -> None:
    engine = start_engine("slow?batch_ms=60", RERANKQ_MAX_BATCH_PAIRS="2")
    job = engine.ask(rows_of(*[5] * 60))
    eventually(lambda: engine.status.batches >= 10)

    engine.kill()

    assert len(job.result()) == 60
    assert engine.status.pairs <= 60 - 18


def test_one_poison_among_52_innocents_is_convicted_and_nobody_else(start_engine: StartEngine) -> None:
    engine = start_engine(f"treacherous?die={POISON}&batch_ms=20")
    innocents = [engine.ask(rows_of(3, 4, 5), job_id=f"innocent-{number}") for number in range(26)]
    poison = engine.ask(rows_of(4, token=POISON), job_id="poison")
    innocents += [engine.ask(rows_of(3, 4, 5), job_id=f"innocent-{number}") for number in range(26, 52)]

    with pytest.raises(EngineKilledTwice, match="poison"):
        poison.result()

    assert [job.result().tolist() for job in innocents] == [[-3, -4, -5]] * 52
    eventually(lambda: len(engine.exit_codes) == 2)


def test_a_hung_pass_ends_the_engine_and_convicts_the_job_that_hangs_alone(start_engine: StartEngine) -> None:
    engine = start_engine(f"treacherous?hang={POISON}", RERANKQ_STUCK_AFTER_SECONDS="1.5")
    innocent = engine.ask(rows_of(*[7] * 60), job_id="innocent")
    hanging = engine.ask(rows_of(4, token=POISON), job_id="hanging")

    with pytest.raises(EngineKilledTwice, match="hanging"):
        hanging.result()

    assert innocent.result().tolist() == [-7] * 60
    eventually(lambda: len(engine.exit_codes) == 2)
    assert engine.exit_codes == [os.EX_SOFTWARE] * 2


def test_a_lost_device_ends_the_engine_and_is_told_so(start_engine: StartEngine) -> None:
    engine = start_engine(f"treacherous?broken={POISON}")

    with pytest.raises(EngineKilledTwice):
        engine.scores(rows_of(4, token=POISON))

    eventually(lambda: len(engine.exit_codes) == 2)
    assert engine.exit_codes == [os.EX_OSERR] * 2


@pytest.mark.parametrize("trouble", ["fail", "out_of_memory"])
def test_a_job_that_raises_alone_is_refused_and_its_neighbours_are_answered(
    start_engine: StartEngine, trouble: str
) -> None:
    engine = start_engine(f"treacherous?{trouble}={POISON}&batch_ms=400")
    blocker = engine.ask(rows_of(1))
    eventually(lambda: engine.status.jobs["bulk"] == 1)
    innocents = [engine.ask(rows_of(3, 4)) for _ in range(5)]
    guilty = engine.ask(rows_of(4, token=POISON))

    with pytest.raises(EngineRefused, match="double"):
        guilty.result()

    assert [job.result().tolist() for job in innocents] == [[-3, -4]] * 5
    assert blocker.result().tolist() == [-1]
    assert engine.exit_codes == []


def test_a_row_without_a_finite_logit_is_passed_on_as_nan(engine: EngineUnderTest) -> None:
    logits = engine.scores([*rows_of(3), *rows_of(4, token=WITHOUT_A_NUMBER), *rows_of(5)])

    assert logits.tolist() == pytest.approx([-3, float("nan"), -5], nan_ok=True)


def test_a_row_longer_than_the_model_reads_is_refused_with_its_length(engine: EngineUnderTest) -> None:
    with pytest.raises(EngineRefused, match="at most 64 tokens, got 65"):
        engine.scores(rows_of(10, 65))


@pytest.mark.parametrize(
    "garbage",
    [
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="http"),
        pytest.param(b"\xff\xff\xff\xff" + b"\xff" * 8, id="endless frame"),
        pytest.param(b"\x80\x00\x00\x00", id="negative frame"),
        pytest.param(
            struct.pack(">i", 50) + b"\x80\x04cposix\nsystem\n(S'false'\ntR.".ljust(50), id="pickle"
        ),
        pytest.param(struct.pack(">i", 900) + b"cut off", id="cut off"),
        pytest.param(struct.pack(">i", 4) + struct.pack(">I", 2**32 - 1), id="header longer than frame"),
    ],
)
def test_garbage_on_the_socket_closes_that_connection_and_no_other(
    engine: EngineUnderTest, garbage: bytes
) -> None:
    with socket.socket(socket.AF_UNIX) as intruder:
        intruder.settimeout(PATIENCE_SECONDS)
        intruder.connect(str(engine.socket_path))
        intruder.sendall(garbage)
        intruder.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):  # the end, where part of it was left unread
            while intruder.recv(65536):  # the greeting, then the end
                pass

    assert engine.scores(rows_of(3)).tolist() == [-3]
    assert engine.exit_codes == []


def test_a_client_that_does_not_read_is_hung_up_on_and_holds_nobody_up(start_engine: StartEngine) -> None:
    engine = start_engine("noop", RERANKQ_MAX_BATCH_PAIRS="1")
    deaf = engine.client.scores(rows_of(*[2] * 3000), job_id="deaf", lane="bulk")
    next(deaf)

    engine.scores(rows_of(3))

    eventually(lambda: engine.status.waiting_rows["bulk"] == 0)
    assert sum(len(piece.indices) for piece in deaf) > 0  # it comes back, and gets the rest
    assert engine.exit_codes == []


def test_sigterm_finishes_what_is_asked_and_exits_with_0(start_engine: StartEngine) -> None:
    engine = start_engine("slow?batch_ms=50", RERANKQ_MAX_BATCH_PAIRS="2")
    job = engine.ask(rows_of(*[5] * 20))
    eventually(lambda: engine.status.batches > 0)

    engine.process.terminate()

    assert job.result().tolist() == [-5] * 20
    eventually(lambda: len(engine.exit_codes) == 1)
    assert engine.exit_codes == [0]


def test_a_stop_is_no_death_however_often_it_comes(start_engine: StartEngine) -> None:
    engine = start_engine("slow?batch_ms=100", RERANKQ_MAX_BATCH_PAIRS="2", RERANKQ_DRAIN_SECONDS="0")
    job = engine.ask(rows_of(*[5] * 80))

    for stops in range(1, 4):
        eventually(lambda: engine.status.batches > 0 and engine.status.state == "busy")
        engine.process.terminate()
        eventually(lambda stops=stops: len(engine.exit_codes) == stops)  # type: ignore[misc]
        engine.client.describe()

    assert job.result().tolist() == [-5] * 80
    assert engine.exit_codes == [0, 0, 0]


def test_an_engine_whose_parent_was_killed_ends_by_itself(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "RERANKQ_RUNTIME_DIR": str(tmp_path),
        "RERANKQ_ENGINE_FACTORY": "rerankq_worker.doubles:noop",
    }
    parent_code = (
        "import os, subprocess, sys, time; subprocess.Popen([sys.executable, '-m', 'rerankq_worker', 'engine',"
        " '--device', 'cpu0', '--parent-pid', str(os.getpid())]); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", parent_code], env=environment)
    EngineClient(tmp_path / "cpu0.sock", PATIENCE_SECONDS).describe()
    status = health.read_status(tmp_path / "cpu0.json")
    assert status is not None

    parent.kill()
    parent.wait()

    eventually(lambda: health.judged(status).state == "broken")


def test_a_second_engine_for_the_same_device_is_refused(engine: EngineUnderTest) -> None:
    environment = {**os.environ, "RERANKQ_RUNTIME_DIR": str(engine.socket_path.parent)}
    command = [sys.executable, "-m", "rerankq_worker", "engine", "--device", "cpu0"]

    second = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    assert second.returncode == os.EX_TEMPFAIL
    assert "another process serves" in second.stderr
    assert engine.scores(rows_of(3)).tolist() == [-3]


def test_the_status_follows_the_engine_through_death_and_loading(start_engine: StartEngine) -> None:
    engine = start_engine("slow?load_ms=1000")
    last_words = engine.status
    assert last_words.state == "ready"

    engine.kill()

    eventually(lambda: health.judged(last_words).state == "broken")
    for state in ("loading", "ready"):
        eventually(lambda state=state: engine.status.state == state)  # type: ignore[misc]


def test_a_frozen_engine_is_stuck_once_its_heartbeat_is_old(engine: EngineUnderTest) -> None:
    last_words = engine.status

    in_time = health.judged(last_words, last_words.heartbeat_monotonic + 1)
    too_late = health.judged(last_words, last_words.heartbeat_monotonic + health.SILENT_AFTER_SECONDS + 1)

    assert (in_time.state, too_late.state) == ("ready", "stuck")


def test_no_engine_at_all_is_told_after_the_wait(tmp_path: Path) -> None:
    client = EngineClient(tmp_path / "cpu0.sock", wait_seconds=0.3)

    with pytest.raises(EngineAway, match=r"cpu0\.sock within 0\.3 s"):
        client.describe()


def test_an_engine_that_accepts_and_says_nothing_counts_as_away(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as frozen:
        frozen.bind(str(tmp_path / "cpu0.sock"))
        frozen.listen()

        with pytest.raises(EngineAway, match="said nothing"):
            EngineClient(tmp_path / "cpu0.sock", wait_seconds=0.3).describe()


def test_a_wrong_factory_is_a_configuration_error_in_one_line(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "RERANKQ_RUNTIME_DIR": str(tmp_path),
        "RERANKQ_ENGINE_FACTORY": "rerankq_worker.doubles:nop",
    }
    command = [sys.executable, "-m", "rerankq_worker", "engine", "--device", "cpu0"]

    refused = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    assert refused.returncode == os.EX_CONFIG
    assert "RERANKQ_ENGINE_FACTORY: rerankq_worker.doubles:nop cannot be imported" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_waiting_for_a_dead_engine_still_yields(tmp_path: Path) -> None:
    scores = EngineClient(tmp_path / "cpu0.sock", wait_seconds=5).scores(
        rows_of(3), job_id="job", lane="bulk"
    )

    started = time.monotonic()
    pieces = [next(scores) for _ in range(3)]

    assert all(len(piece.indices) == 0 for piece in pieces)
    assert time.monotonic() - started < 5
