"""How a run shows itself: a bar on a terminal, a log line every ten seconds elsewhere, or JSON lines."""

import json
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Literal

from rerankq.bulk.output.totals import Totals

Kind = Literal["auto", "bar", "lines", "json", "none"]

LINE_PERIOD_SECONDS = 10.0
JSON_PERIOD_SECONDS = 1.0
PACE_OVER_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Where a run stands."""

    rows: int
    rows_total: int | None
    fraction: float | None
    failed: int
    pairs: int
    pairs_per_second: float
    eta_seconds: float | None
    in_flight: int
    workers: int
    cached_pairs: int
    elapsed_seconds: float
    is_paused: bool = False
    """Whether an operator holds its lane back, or in it the jobs of some models."""
    paused_models: tuple[str, ...] = ()
    """Those; none where it is the whole lane."""


class Progress:
    """Shows snapshots; this one shows nothing."""

    def show(self, snapshot: Snapshot) -> None:
        """Show it, if it is time."""

    def close(self) -> None:
        """Leave the screen as it was."""


class Meter:
    """Turns what is done so far into snapshots. Pure but for the clock."""

    def __init__(self, before: Totals, clock: Callable[[], float] = time.monotonic) -> None:
        """`before` is what an earlier run has done."""
        self._clock = clock
        self._began = clock()
        self._before = before.model_copy(deep=True)
        self._marks: deque[tuple[float, int]] = deque([(self._began, before.pairs)])
        self._first_fraction: float | None = None

    def snapshot(
        self,
        tally: Totals,
        fraction: float | None,
        rows_total: int | None,
        in_flight: int,
        workers: int,
        *,
        paused_models: frozenset[str | None] = frozenset(),
    ) -> Snapshot:
        """Where the run stands now; `paused_models` are those whose jobs are held back, None the whole lane."""
        now = self._clock()
        if rows_total:
            fraction = min(tally.rows / rows_total, 1.0)
        return Snapshot(
            rows=tally.rows,
            rows_total=rows_total,
            fraction=fraction,
            failed=tally.failed,
            pairs=tally.pairs,
            pairs_per_second=self._pace(now, tally.pairs),
            eta_seconds=self._eta(now, fraction),
            in_flight=in_flight,
            workers=workers,
            cached_pairs=tally.cached_pairs,
            elapsed_seconds=now - self._began,
            is_paused=bool(paused_models),
            paused_models=tuple(sorted(model for model in paused_models if model is not None)),
        )

    def _pace(self, now: float, pairs: int) -> float:
        self._marks.append((now, pairs))
        while len(self._marks) > 2 and now - self._marks[0][0] > PACE_OVER_SECONDS:
            self._marks.popleft()
        began, pairs_then = self._marks[0]
        return (pairs - pairs_then) / (now - began) if now > began else 0.0

    def _eta(self, now: float, fraction: float | None) -> float | None:
        if fraction is None:
            return None
        if self._first_fraction is None:
            self._first_fraction = fraction
        gained = fraction - self._first_fraction
        return (now - self._began) * (1 - fraction) / gained if gained > 0 else None


class ProgressLines(Progress):
    """One line every ten seconds, for logs; or one a second as JSON, for programs."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._period_seconds = JSON_PERIOD_SECONDS if as_json else LINE_PERIOD_SECONDS
        self._next_at = time.monotonic() + self._period_seconds

    def show(self, snapshot: Snapshot) -> None:
        if time.monotonic() < self._next_at:
            return
        self._next_at = time.monotonic() + self._period_seconds
        line = json.dumps(asdict(snapshot)) if self._as_json else in_words(snapshot)
        print(line, file=sys.stderr, flush=True)


class Bar(Progress):
    """A bar on a terminal."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TaskProgressColumn, TextColumn
        from rich.progress import Progress as RichProgress

        columns = (BarColumn(bar_width=24), TaskProgressColumn(), TextColumn("{task.description}"))
        self._rich = RichProgress(
            *columns, console=Console(stderr=True), refresh_per_second=5, transient=True
        )
        self._task = self._rich.add_task("reading", total=None)
        self._rich.start()

    def show(self, snapshot: Snapshot) -> None:
        total = None if snapshot.fraction is None else 1.0
        self._rich.update(
            self._task, description=in_words(snapshot), total=total, completed=snapshot.fraction
        )

    def close(self) -> None:
        self._rich.stop()


def progress_of(kind: Kind) -> Progress:
    """What suits the kind; `auto` is a bar where stderr is a terminal, else lines."""
    if kind == "none":
        return Progress()
    if kind == "bar" or (kind == "auto" and sys.stderr.isatty()):
        return Bar()
    return ProgressLines(as_json=kind == "json")


def in_words(snapshot: Snapshot) -> str:
    """`1,200 of 5,000 jobs, 842 pairs/s, 0:05:12 left, 3 failed, 8 packs in flight, 4 workers`."""
    from rerankq.contract.orders import lane_in_words, resume_command  # and redis: not for --help

    total = "" if snapshot.rows_total is None else f" of {snapshot.rows_total:,}"
    parts = [f"{snapshot.rows:,}{total} jobs", f"{snapshot.pairs_per_second:,.0f} pairs/s"]
    if snapshot.eta_seconds is not None:
        parts.append(f"{clock(snapshot.eta_seconds)} left")
    parts += [
        f"{snapshot.failed:,} failed",
        _counted(snapshot.in_flight, "pack") + " in flight",
        _counted(snapshot.workers, "worker"),
    ]
    if snapshot.is_paused:
        held_back = snapshot.paused_models or [None]
        parts += [
            f"{lane_in_words('bulk', each)} is paused (`{resume_command('bulk', each)}`)"
            for each in held_back
        ]
    if snapshot.cached_pairs:
        parts.append(f"{snapshot.cached_pairs:,} pairs known already")
    return ", ".join(parts)


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def clock(seconds: float) -> str:
    """3725 as `1:02:05`."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
