"""`rerankq top`: lanes, workers and Redis at a glance, live on a terminal; `rerankq lanes` is its first table."""

import dataclasses
import json
import math
import os
import select
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from rerankq.cli import options
from rerankq.cli.connection import leave, redis_for
from rerankq.cli.failures import in_words
from rerankq.cli.screen import bytes_in_words, fitted_table, out, print_table, short
from rerankq.contract.errors import BrokerUnavailable, QueueFull

if TYPE_CHECKING:
    from rerankq.cli.overview import LaneFacts, Reading
    from rerankq.contract.heartbeats import WorkerStatus

A_MOMENT_SECONDS = 1.0  # between the two readings of `--once`
WINDOW_SECONDS = 60.0  # what is told of coming and going, live
_LINES_BESIDE_WORKERS = 9  # headings and Redis, at least

LANE_HEADINGS = (
    *("lane", "model", "waiting", "oldest", "in hand", "in/s", "out/s", "p50", "p95", "dead", "empties in"),
    *("workers", "needed", "state"),
)
SPARE_OF_LANES = (
    "p50",
    "dead",
    "in hand",
    "needed",
    "in/s",
    "workers",
    "p95",
    "out/s",
    "empties in",
    "model",
)
WORKER_HEADINGS = ("worker", "state", "device", "pairs/s", "busy", "job", "for", "model", "release", "seen")
NO_WORKER = "no worker has been heard of lately; `rerankq-worker` starts one"
SPARE_OF_WORKERS = ("release", "seen", "model", "device", "for", "busy", "pairs/s", "job")

Cells = list[str]


def lanes(as_json: options.Json = False) -> None:
    """Count the jobs that wait in each lane, and those of them that name a model by its name.

    [bold]Example:[/] watch rerankq lanes
    """
    from rerankq.cli.overview import lanes_of, read
    from rerankq.contract.messages import LANES

    with redis_for("asking for lanes") as redis:
        reading = read(redis)
    if as_json:
        waiting = {at: jobs for at, jobs in reading.waiting.items() if jobs}
        models = sorted({model for _, model in waiting if model is not None})
        by_model = {model: {lane: waiting.get((lane, model), 0) for lane in LANES} for model in models}
        all_together = {lane: sum(n for (each, _), n in waiting.items() if each == lane) for lane in LANES}
        paused = {"paused": sorted(reading.paused)} if reading.paused else {}
        print(json.dumps(all_together | ({"models": by_model} if by_model else {}) | paused))
        return
    print_table(*_lane_table(lanes_of(reading)), spare=SPARE_OF_LANES)


def top(
    once: Annotated[bool, typer.Option("--once", help="Once, as in a pipe.")] = False,
    interval: Annotated[float, typer.Option(min=0.2, max=3600, help="Seconds between two looks.")] = 2.0,
    as_json: options.Json = False,
) -> None:
    """Show lanes, workers and Redis as they are, again and again until `q`; in a pipe or with --json once.

    What comes and goes is measured while it looks, for a minute at most, or a second where it looks once. p50 and p95
    are the times from submission until a ranking was stored.

    [bold]Example:[/] rerankq top --once --json | jq '.lanes[] | select(.waiting > 0)'
    """
    if once or as_json or not out.is_terminal or out.is_dumb_terminal:
        _show_once(as_json=as_json)
    else:
        _show_live(interval)


def _show_once(*, as_json: bool) -> None:
    from rerankq.cli.overview import lanes_of, read

    with redis_for("looking around") as redis:
        earlier = read(redis)
        time.sleep(A_MOMENT_SECONDS)
        reading = read(redis)
    if as_json:
        print(json.dumps(_as_json(reading, earlier), ensure_ascii=False))
        return
    print_table(*_lane_table(lanes_of(reading, earlier)), spare=SPARE_OF_LANES)
    out.print()
    print_table(WORKER_HEADINGS, worker_rows(WORKER_HEADINGS, reading.workers), spare=SPARE_OF_WORKERS)
    out.print()
    for line in _lines(reading):
        out.print(line, markup=False, soft_wrap=True)


def _show_live(interval: float) -> None:
    from rerankq.cli.overview import read

    readings: deque[Reading] = deque()
    has_looked = False
    with _keys() as wants_to_leave, Live(console=out, screen=True, auto_refresh=False) as live:
        while True:
            try:
                with redis_for("looking around") as redis:
                    while True:
                        readings.append(read(redis))
                        has_looked = True
                        while readings[-1].at_monotonic - readings[0].at_monotonic > WINDOW_SECONDS:
                            readings.popleft()
                        live.update(_screen(readings[-1], readings[0], interval), refresh=True)
                        if wants_to_leave(interval):
                            return
            except (BrokerUnavailable, QueueFull) as error:
                if not has_looked:
                    raise
                readings.clear()
                live.update(Text(in_words(error), style="red", overflow="fold"), refresh=True)
                if wants_to_leave(interval):
                    return


@contextmanager
def _keys() -> Generator[Callable[[float], bool]]:
    """A function that waits for so many seconds and says whether somebody typed `q` meanwhile; Ctrl-C leaves too."""
    import termios
    import tty

    if not sys.stdin.isatty():
        with _leaving_by_control_c():
            yield _nobody_types
        return
    file, before = sys.stdin.fileno(), termios.tcgetattr(sys.stdin)

    def is_typed(seconds: float) -> bool:
        give_up_at = time.monotonic() + seconds
        while (left := give_up_at - time.monotonic()) > 0:
            if select.select([sys.stdin], [], [], left)[0]:
                typed = os.read(file, 64)
                if not typed or b"q" in typed.lower():
                    return True
        return False

    try:
        tty.setcbreak(file)
        with _leaving_by_control_c():
            yield is_typed
    finally:
        termios.tcsetattr(file, termios.TCSADRAIN, before)


def _nobody_types(seconds: float) -> bool:
    time.sleep(seconds)
    return False


@contextmanager
def _leaving_by_control_c() -> Generator[None]:
    before = signal.signal(signal.SIGTERM, leave)  # by itself it would leave the terminal as it is now
    try:
        yield
    except KeyboardInterrupt:
        raise typer.Exit from None
    finally:
        signal.signal(signal.SIGTERM, before)


def _screen(reading: "Reading", earlier: "Reading", interval: float) -> RenderableType:
    from rerankq.cli.overview import lanes_of
    from rerankq.contract.heartbeats import IN_SERVICE

    found = lanes_of(reading, earlier if earlier is not reading else None)
    headings, rows = _lane_table(found)
    lines = [Text(line, overflow="fold") for line in _lines(reading)]
    room = max(out.height - len(rows) - len(lines) - _LINES_BESIDE_WORKERS, 1)
    foremost = sorted(
        reading.workers, key=lambda worker: worker.state in IN_SERVICE
    )  # what is amiss is not cut off
    workers = worker_rows(WORKER_HEADINGS, foremost)
    more = len(workers) - room
    return Group(
        Text(f"{datetime.now(UTC):%H:%M:%S} UTC, every {interval:g} s; q leaves", style="dim"),
        fitted_table(headings, rows, SPARE_OF_LANES, out.width),
        Text(),
        fitted_table(WORKER_HEADINGS, workers[:room], SPARE_OF_WORKERS, out.width),
        Text(f"… and {more} more: `rerankq workers`" if more > 0 else "", style="dim"),
        *lines,
    )


def _lane_table(found: "Sequence[LaneFacts]") -> tuple[Cells, list[Cells]]:
    """Headings and rows; a column of which nothing is known is none."""
    rows = [_lane_row(each) for each in found]
    told = [place for place in range(len(LANE_HEADINGS)) if place < 3 or any(row[place] for row in rows)]
    return [LANE_HEADINGS[place] for place in told], [[row[place] for place in told] for row in rows]


def _lane_row(of: "LaneFacts") -> Cells:
    from rerankq.admission import shortened

    return [
        of.lane,
        "" if of.model is None else shortened(of.model),
        f"{of.waiting:,}",
        _seconds(of.oldest_seconds),
        _count(of.in_hand),
        _rate(of.in_per_second),
        _rate(of.out_per_second),
        _seconds(of.p50_seconds),
        _seconds(of.p95_seconds),
        _count(of.dead),
        "never" if of.empties_in_seconds == math.inf else _seconds(of.empties_in_seconds or None),
        _count(of.workers),
        _count(of.workers_needed),
        "" if of.paused_seconds is None else f"paused {_seconds(of.paused_seconds)}",
    ]


def worker_rows(headings: Sequence[str], workers: "Sequence[WorkerStatus]") -> list[Cells]:
    """What a table with these headings says of each."""
    return [[cells[heading] for heading in headings] for cells in map(_worker_cells, workers)]


def _worker_cells(of: "WorkerStatus") -> dict[str, str]:
    pairs = of.pairs_per_second if of.device_pairs_per_second is None else of.device_pairs_per_second
    limits = [of.limits_seconds[lane] for lane in of.lanes if lane in of.limits_seconds]
    return {
        "worker": of.name,
        "state": of.state,
        "lanes": ", ".join(of.lanes),
        "limits": ", ".join(f"{seconds:g} s" for seconds in limits),
        "device": f"{of.device} {of.dtype}".strip(),
        "pairs/s": _rate(pairs),
        "busy": "" if of.device_busy is None else f"{min(of.device_busy, 1):.0%}",
        "job": of.job,
        "for": _seconds(None if of.job_seconds is None else of.job_seconds + of.seen_seconds_ago),
        "engine": of.engine,
        "model": f"{of.model} {short(of.revision)}".strip(),
        "release": of.version or "older",
        "seen": f"{of.seen_seconds_ago:.0f} s ago",
    }


def _lines(reading: "Reading") -> list[str]:
    """What is no table: how Redis is, what it may lose, what could not be read."""
    from rerankq.contract.orders import paused_in_words
    from rerankq.contract.risks import risks

    lines = [] if reading.info is None else [_redis_line(reading.info)]
    lines += [f"paused: {lane}" for lane in paused_in_words(reading.paused)]
    lines += [
        f"Redis may lose what it holds: {risk.text}" for risk in risks(reading.info or {}) if reading.info
    ]
    lines += [f"not read: {part} ({why.what}): {why.cure}" for part, why in reading.not_read.items()]
    return lines if reading.workers else [*lines, NO_WORKER]


def _redis_line(info: Mapping[str, Any]) -> str:
    used, limit = info.get("used_memory", 0), info.get("maxmemory", 0)
    memory = (
        f"{bytes_in_words(used)} of {bytes_in_words(limit)} ({used / limit:.0%})"
        if limit
        else f"{bytes_in_words(used)}, no limit"
    )
    log = "no append-only log"
    if info.get("aof_enabled"):
        size, last = (
            bytes_in_words(info.get("aof_current_size", 0)),
            info.get("aof_last_write_status", "unknown"),
        )
        log = f"append-only log {size} on disk, last write {last}"
    clients = f"{info.get('connected_clients', 0):,} clients"
    return f"Redis {info.get('redis_version', '')}: memory {memory}; {log}; {clients}"


def _as_json(reading: "Reading", earlier: "Reading") -> dict[str, Any]:
    from rerankq.cli.overview import lanes_of
    from rerankq.contract.risks import risks

    info = reading.info
    shown = (
        "redis_version",
        "used_memory",
        "maxmemory",
        "maxmemory_policy",
        "aof_enabled",
        "aof_current_size",
    )
    shown += (
        "aof_last_write_status",
        "rdb_last_bgsave_status",
        "connected_clients",
        "instantaneous_ops_per_sec",
    )
    return {
        "window_seconds": reading.at_monotonic - earlier.at_monotonic,
        "lanes": [_finite(dataclasses.asdict(each)) for each in lanes_of(reading, earlier)],
        "workers": [dataclasses.asdict(worker) for worker in reading.workers],
        "redis": None if info is None else {name: info[name] for name in shown if name in info},
        "risks": [] if info is None else [dataclasses.asdict(risk) for risk in risks(info)],
        "not_read": {part: why._asdict() for part, why in reading.not_read.items()},
    }


def _finite(fields: dict[str, Any]) -> dict[str, Any]:
    """JSON has no infinity: what never ends is said in words."""
    return {name: "never" if value == math.inf else value for name, value in fields.items()}


def _seconds(seconds: float | None) -> str:
    """As short as it tells: `4 ms`, `1.2 s`, `3 min`, `2.5 h`."""
    if seconds is None:
        return ""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _rate(per_second: float | None) -> str:
    if per_second is None:
        return ""
    return f"{per_second:,.1f}" if per_second < 10 else f"{per_second:,.0f}"


def _count(count: int | None) -> str:
    return "" if count is None else f"{count:,}"
