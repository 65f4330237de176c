"""When a pass is begun, who is in it and what becomes of it, with an engine that writes down what it is asked for."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rerankq.contract.messages import Lane
from rerankq_worker.doubles import Behaviour, DoubleEngine
from rerankq_worker.engine_process.desk import Asker, Desk
from rerankq_worker.engine_process.forecast import Forecast
from rerankq_worker.engine_process.passes import LEAD_SECONDS, LONGEST_LEAD_SECONDS, Passes
from rerankq_worker.engine_process.watchdog import Watchdog
from rerankq_worker.link import frames
from rerankq_worker.link.frames import Failed, Frame, RowsToScore, Running, Scores
from rerankq_worker.link.health import EngineStatus
from rerankq_worker.scoring import Logits, TokenIds
from rerankq_worker.settings import WorkerSettings
from tests.process.engine_under_test import rows_of

BAD = 13
MAX_PAIRS = 2


class Stream:
    """A device that has never done a pass before it is asked for its logits; it is told apart by its rows' lengths."""

    def __init__(self, *, is_done_at_once: bool = False) -> None:
        self.info = DoubleEngine(WorkerSettings(), "gpu0", Behaviour()).info
        self.events: list[tuple[str, list[int]]] = []
        self.while_it_begins: Callable[[], object] = lambda: None
        self.while_it_runs: Callable[[], object] = lambda: None
        self.waited_seconds: list[float] = []
        self.is_done_at_once = is_done_at_once

    def warm_up(self) -> None: ...

    def score(self, rows: Sequence[TokenIds]) -> Logits:
        return self.begin(rows)()

    def begin(self, rows: Sequence[TokenIds]) -> "OnStream":
        self.events.append(("begun", list(map(len, rows))))
        self.while_it_begins()
        return OnStream(self, rows)


@dataclass(frozen=True)
class OnStream:
    stream: Stream
    rows: Sequence[TokenIds]

    def wait(self, seconds: float) -> bool:
        if seconds > 0:
            self.stream.waited_seconds.append(seconds)
            self.stream.while_it_runs()
        return self.stream.is_done_at_once

    def __call__(self) -> Logits:
        self.stream.events.append(("fetched", list(map(len, self.rows))))
        if any(BAD in row for row in self.rows):
            raise RuntimeError("a bad row")
        return np.array([-len(row) for row in self.rows], dtype=np.float32)


class Plain(DoubleEngine):
    """One that begins nothing, and has another budget after each batch."""

    begin = None  # type: ignore[assignment]
    budgets = (256, 512)

    def score(self, rows: Sequence[TokenIds]) -> Logits:
        tokens, *later = self.budgets
        self.budgets = tuple(later)
        self.info = replace(self.info, max_batch_tokens=tokens)
        return np.array([-len(row) for row in rows], dtype=np.float32)


@dataclass
class Bench:
    """Passes, and whoever asks them."""

    watchdog: Watchdog
    desk: Desk = field(default_factory=lambda: Desk(MAX_PAIRS, max_tokens=1000, max_length_tokens=100))
    _ends: list[Any] = field(default_factory=list[Any])

    def passes(self, engine: "Stream | Plain") -> Passes:
        return Passes(engine, self.desk, self.watchdog)

    def ask(
        self, *lengths: int, lane: Lane = "bulk", token: int = 5, suspect: bool = False
    ) -> Callable[[], list[Frame]]:
        """What a job of rows of these lengths has been told until now."""
        ours, theirs = Pipe()
        asker = Asker(theirs)
        indices = np.arange(len(lengths), dtype=np.int32)
        self._ends.append(ours)  # open although nobody listens
        self.desk.admit(asker)
        self.desk.submit(asker, RowsToScore("job", lane, suspect, indices, rows_of(*lengths, token=token)))
        heard: list[Frame] = []

        def told() -> list[Frame]:
            while ours.poll():
                heard.append(frames.decode(ours.recv_bytes()))
            return heard

        return told


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    status = EngineStatus(state="ready", pid=1, device="gpu0", boot="b", starts=1, started_monotonic=0.0)
    return Bench(Watchdog(tmp_path / "gpu0.json", status, stuck_after_seconds=60, parent_pid=None))


@pytest.fixture(autouse=True)
def every_pass_is_expected_to_take_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Forecast, "seconds_of", lambda *_: 1.0)


def go_on(passes: Passes, times: int) -> None:
    for _ in range(times):
        passes.go_on(0)


def scores(told: Sequence[Frame]) -> Iterator[float]:
    for frame in told:
        if isinstance(frame, Scores):
            yield from frame.logits.tolist()


def test_a_pass_is_begun_before_the_one_ahead_of_it_is_over_and_never_a_third(bench: Bench) -> None:
    stream = Stream()
    bench.ask(9, 8, 7, 6, 5, 4)

    go_on(bench.passes(stream), 4)

    a, b, c = [9, 8], [7, 6], [5, 4]
    assert stream.events == [
        ("begun", a), ("begun", b), ("fetched", a), ("begun", c), ("fetched", b), ("fetched", c)
    ]  # fmt: skip


def test_an_interactive_job_that_comes_while_a_bulk_pass_runs_is_in_the_next_one(bench: Bench) -> None:
    stream = Stream()
    bench.ask(*[9] * 20)
    passes = bench.passes(stream)
    go_on(passes, 4)
    stream.while_it_runs = lambda: bench.ask(3, lane="interactive")
    begun_before = [event for event in stream.events if event[0] == "begun"]

    passes.go_on(0)

    begun = [event for event in stream.events if event[0] == "begun"]
    assert begun[len(begun_before)] == ("begun", [3])


@pytest.mark.parametrize(
    ("beginning_takes_seconds", "lead_seconds"),
    [(0.0, LEAD_SECONDS), (0.002, LEAD_SECONDS + 0.002), (60.0, LONGEST_LEAD_SECONDS)],
    ids=["at once", "a while", "very long"],
)
def test_a_pass_is_begun_so_early_that_beginning_is_over_in_time_within_bounds(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, beginning_takes_seconds: float, lead_seconds: float
) -> None:
    now = [100.0]
    monkeypatch.setattr("rerankq_worker.engine_process.passes.time.monotonic", lambda: now[0])
    stream = Stream()
    bench.ask(*[9] * 20)
    passes = bench.passes(stream)
    passes.go_on(0)
    stream.while_it_begins = lambda: now.append(now.pop() + beginning_takes_seconds)

    go_on(passes, 2)

    assert stream.waited_seconds[-1] == pytest.approx(1 - lead_seconds)


def test_an_engine_that_computes_while_it_begins_hands_over_before_it_begins_the_next(bench: Bench) -> None:
    stream = Stream(is_done_at_once=True)
    bench.ask(9, 8, 7, 6)

    go_on(bench.passes(stream), 4)

    assert [what for what, _ in stream.events] == ["begun", "fetched"] * 2


def test_a_suspect_is_neither_begun_behind_another_nor_another_behind_it(bench: Bench) -> None:
    stream = Stream()
    bench.ask(9)
    bench.ask(8, suspect=True)
    bench.ask(7, 6)

    go_on(bench.passes(stream), 6)

    alone = [[9, 7], [8], [6]]
    assert stream.events == [(what, rows) for rows in alone for what in ("begun", "fetched")]


def test_rows_are_told_to_run_once_they_are_begun_and_not_before(bench: Bench) -> None:
    told = bench.ask(9, 8, 7, 6, 5, 4)
    passes = bench.passes(Stream())

    passes.go_on(0)
    first = [type(frame) for frame in told()]
    passes.go_on(0)

    assert first == [Running]
    assert [type(frame) for frame in told()] == [Running, Running, Scores]


def test_a_batch_that_raises_is_run_again_by_job_while_the_one_behind_it_goes_on(bench: Bench) -> None:
    good, bad, behind = bench.ask(9), bench.ask(8, token=BAD), bench.ask(7, 6)

    go_on(bench.passes(Stream()), 6)

    assert list(scores(good())) == [-9]
    assert list(scores(behind())) == [-7, -6]
    assert [type(frame) for frame in bad()][-1] is Failed


def test_a_job_that_fails_in_two_passes_at_once_is_refused_once(bench: Bench) -> None:
    told = bench.ask(9, 8, 7, 6, token=BAD)

    go_on(bench.passes(Stream()), 4)

    assert [type(frame) for frame in told()] == [Running, Running, Failed]
    assert bench.watchdog.tally.counts["refused_jobs"] == 1


def test_who_stops_hands_over_what_runs_and_begins_nothing(bench: Bench) -> None:
    stream = Stream()
    told = bench.ask(9, 8, 7, 6)
    passes = bench.passes(stream)
    passes.go_on(0)

    passes.finish()

    assert list(scores(told())) == [-9, -8]
    assert len(stream.events) == 2


def test_batches_follow_the_budget_of_an_engine_that_only_scores(bench: Bench) -> None:
    bench.watchdog.status = replace(bench.watchdog.status, max_batch_tokens=1000)
    told = bench.ask(9, 8, 7, 6)
    passes = bench.passes(Plain(WorkerSettings(), "gpu0", Behaviour()))
    seen: list[tuple[int, int]] = []

    for _ in range(2):
        go_on(passes, 2)
        seen.append((bench.watchdog.status.max_batch_tokens, bench.desk._scheduler.max_tokens))

    assert seen == [(256, 256), (512, 512)]
    assert bench.watchdog.tally.counts["out_of_memory"] == 1
    assert list(scores(told())) == [-9, -8, -7, -6]


def test_the_clock_of_a_pass_begins_when_the_one_ahead_of_it_is_over(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("rerankq_worker.engine_process.watchdog.time.monotonic", lambda: now[0])
    ahead, behind = bench.watchdog.begin_pass(), bench.watchdog.begin_pass()
    now[0] = 103.0

    took = bench.watchdog.end_pass(ahead, pairs=2, tokens=10)
    now[0] = 104.0

    assert (took, behind.age_seconds) == (3.0, 1.0)
    assert bench.watchdog.end_pass(behind) == 1.0
    assert bench.watchdog.tally.counts["busy_seconds"] == 4.0


def test_a_pass_that_cannot_be_begun_leaves_the_clock_of_the_running_one(bench: Bench) -> None:
    running, broken = bench.watchdog.begin_pass(), bench.watchdog.begin_pass()
    since = running.since

    bench.watchdog.end_pass(broken)

    assert (bench.watchdog._work, running.since) == (running, since)
