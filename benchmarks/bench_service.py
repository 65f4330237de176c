"""What the queue costs around the engine, and how the whole service stands beside what people would build.

    python -m benchmarks.bench_service hand-overs --against ../before     # this checkout and that one, in turns
    python -m benchmarks.bench_service engine interactive --rounds 5
    python -m benchmarks.bench_service peers --model mini

    hand-overs   an engine that answers at once, real paragraphs. One caller of 1, 10, 20 and 50 documents: p50, and
                 what of it is queue, tokenizing and engine. 16 callers of 1 document: jobs a second, from threads and
                 from an event loop. Of each the processor's time a job, of all processes, and Redis's commands (those
                 inside scripts, too) and bytes
    engine       a device that sleeps, of 1,600 and of 3,000 pairs/s (--rates): the share of its own rate, called
                 directly in full batches, that callers of 10 and of 50 documents and bulk work get out of it
    peers        one model, 16 callers of 10 documents: this service, plain Celery with CrossEncoder in its task,
                 infinity's server. infinity has a Python of its own, named by RERANKQ_BENCH_INFINITY_PYTHON
    interactive  p50 and p99 of one caller of 10 documents, without and with as much bulk work as there is room for
    growth       a device that sleeps, one and two of them: jobs a second and an interactive caller's p50, with
                 10 to 10,000 jobs waiting

With `--against` all but peers is done by that checkout's service, too, beside this one's: a Redis, a worker and a
client of its own code each. Sides are asked in turns (A B B A), and `ratio` is this one over the other within a round:
median and range. Read ratios and processor time, on a busy machine nothing else. Texts are paragraphs of
../shared/data/jobs, made up where that is absent. The last line is JSON.
"""

import argparse
import asyncio
import itertools
import json
import math
import os
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import service_peers
from benchmarks.bench_http import Load, ratio, under_load
from benchmarks.service_sides import (
    Row,
    Side,
    Told,
    Work,
    a_job,
    answered,
    asks,
    batch_ms,
    cpu_ms,
    device,
    jobs_of,
    line,
    p50,
    per_second,
    percentile,
    race,
    ratios,
    risen,
    serving,
    sides,
)
from rerankq.contract.closed_pipes import ends_quietly
from tests.conftest import REPOSITORY

CALLERS = 16
DOCUMENTS = (1, 10, 20, 50)
PEERS_DOCUMENTS = 10
PEERS_MEASURED = ("per_second", "p50_ms", "p99_ms", "cpu_ms")
PATIENCE_SECONDS = 120.0
DEVICE_RATES = (1600, 3000)
WAITING = (10, 100, 1_000, 10_000)
PACK_PAIRS = 256  # what is under way when bulk work ends takes a real model seconds, not minutes
WARM_SECONDS = 1.5
WARM_LOOKS = 20
ALONE_SECONDS = 1.0
MORE_THAN_A_BATCH_MS = 10.0
MAX_LENGTH_TOKENS = 512

AT_ONCE = "rerankq_worker.doubles:noop"
PACED = "rerankq_worker.doubles:slow?batch_ms=0&pair_ms={:.4f}"
LIKE_A_GPU = "rerankq_worker.doubles:slow?batch_ms=10&pair_ms=0.3"
GROWING = PACED.format(20.0)


def hand_overs(asked: argparse.Namespace) -> Iterator[Row]:
    """What a job costs where the engine answers at once."""
    works = {f"1 caller of {n}": asks(n, 1, asked.seconds) for n in asked.documents}
    for by in ("threads", "tasks"):
        works[f"{CALLERS} {by} of 1"] = asks(1, CALLERS, asked.seconds, by=by)
    found = service(asked, engine=AT_ONCE)
    with serving(found, {1, *asked.documents}):
        told = race(found, asked.rounds, works)
    for work, by_side in told.items():
        for side, came in by_side.items():
            yield {"work": work, "side": side, **answered(came)}
        if compared := ratios(by_side, p50=p50, per_second=per_second, cpu_ms=cpu_ms):
            yield {"work": work, "this over against": compared}


def engine(asked: argparse.Namespace) -> Iterator[Row]:
    """The share of a device's rate that comes through the queue."""
    works: dict[str, Work] = {
        "alone": lambda side: side.ask("alone", seconds=ALONE_SECONDS),
        **{f"{n} documents": asks(n, asked.callers, asked.seconds, watched=True) for n in (10, 50)},
        "bulk": partial(_in_bulk, lambda side: side.ask("look_on", seconds=asked.seconds)),
    }
    workers = {"interactive_workers": asked.workers, "bulk_workers": asked.workers}
    for rate in asked.rates:
        found = service(asked, engine=PACED.format(1000 / rate), **workers)
        with serving(found, (10, 50)):
            told = race(found, asked.rounds, works)
        alone = told.pop("alone")
        for work, by_side in told.items():
            for side, came in by_side.items():
                yield {"device": rate, "work": work, "side": side, **_share(came, alone[side])}


def _share(told: Sequence[Told], alone: Sequence[Told]) -> Row:
    devices = [device(each) for each in told]
    pairs = [each["pairs_per_second"] for each in devices]
    return {
        "pairs_per_second": round(statistics.median(pairs)),
        "share": ratio(pairs, [each["pairs_per_second"] for each in alone]),
        "device_busy": round(statistics.median(each["busy"] for each in devices), 3),
    }


def _in_bulk(work: Work, side: Side) -> Told:
    """The same while there is as much bulk work as the service takes."""
    side.ask("bulk_on", name="50", pack_pairs=PACK_PAIRS)
    time.sleep(WARM_SECONDS)
    told = work(side)
    side.ask("bulk_off")
    return told


def peers(asked: argparse.Namespace) -> Iterator[Row]:
    """One model behind each, 16 callers of 10 documents."""
    loads: dict[str, list[Load]] = {}
    with service_peers.peers(_model_directory(asked.model), asked.threads, MAX_LENGTH_TOKENS) as found:
        for number, peer in itertools.product(range(asked.rounds + 1), found):
            load = asyncio.run(_load_of(peer, asked.seconds if number else WARM_SECONDS))
            loads.setdefault(peer.name, []).append(load)
    counted = {name: [load.told(math.inf) for load in came[1:]] for name, came in loads.items()}
    for name, rows in counted.items():
        medians = {key: round(statistics.median(row[key] for row in rows), 2) for key in PEERS_MEASURED}
        yield {
            "peer": name,
            "pairs_per_second": round(PEERS_DOCUMENTS * medians["per_second"], 1),
            **medians,
            "failed": sum(row["failed"] for row in rows),
            "ours_faster": _ours_over(counted, name, "per_second"),
            "our_cpu": _ours_over(counted, name, "cpu_ms"),
        }


def _ours_over(counted: dict[str, list[Row]], name: str, key: str) -> Row:
    return ratio(*([row[key] for row in counted[each]] for each in ("rerankq", name)))


async def _load_of(peer: service_peers.Peer, seconds: float) -> Load:
    jobs = itertools.cycle(jobs_of(PEERS_DOCUMENTS))
    async with peer.callers(CALLERS) as askers:
        spent = peer.processor_seconds()
        load = await under_load(askers, jobs, seconds)
        load.processor_seconds = peer.processor_seconds() - spent
    return load


def interactive(asked: argparse.Namespace) -> Iterator[Row]:
    """One caller's p50 and p99, without and with bulk work."""
    ask = asks(10, 1, asked.seconds, watched=True)
    for double in (LIKE_A_GPU, None):
        found = service(asked, engine=double)
        with serving(found, (10, 50)):
            told = race(found, asked.rounds, {"alone": ask, "beside": partial(_in_bulk, ask)})
        for side in found:
            waits = {work: by_side[side.name] for work, by_side in told.items()}
            yield {"engine": double or asked.model, "side": side.name, **_waits(**waits)}


def _waits(alone: Sequence[Told], beside: Sequence[Told]) -> Row:
    had = {"alone": answered(alone), "beside_bulk": answered(beside)}
    batch = batch_ms(beside)
    return {
        **{f"{p}_{work}": row[p] for work, row in had.items() for p in ("p50_ms", "p99_ms")},
        "batch_ms": round(batch, 1),
        "p99_added_ms": round(had["beside_bulk"]["p99_ms"] - had["alone"]["p99_ms"], 1),
        "may_add_ms": round(batch + MORE_THAN_A_BATCH_MS, 1),
    }


def growth(asked: argparse.Namespace) -> Iterator[Row]:
    """Jobs a second, and an interactive caller's p50, with so many jobs waiting."""
    for devices in (1, 2):
        for side in service(asked, engine=GROWING, devices=devices):
            with serving([side], (1,)):
                _warm_up_all(side)
                for waiting in asked.waiting:
                    side.ask("stock", name="1", waiting=waiting)
                    told = asks(1, 1, asked.seconds)(side)
                    yield {"devices": devices, "side": side.name, "waiting": waiting, **_grown(told)}


def _warm_up_all(side: Side) -> None:
    """A second worker is long in coming on a busy machine; until it has done a job it would be taken for idle."""
    asks(1, CALLERS, WARM_SECONDS)(side)
    side.ask("stock", name="1", waiting=min(WAITING))
    for _ in range(WARM_LOOKS):
        if all(device["pairs"] for device in risen(side.ask("look_on", seconds=WARM_SECONDS))["device"]):
            return
    raise SystemExit("growth: a worker took no job; its log would tell")


def _grown(told: Told) -> Row:
    jobs, took = risen(told)["bulk_jobs"] + len(told["took_ms"]), told["took_ms"]
    return {
        "per_second": round(jobs / risen(told)["clock"], 1),
        "p50_ms": round(percentile(took, 0.5), 1),
        "p99_ms": round(percentile(took, 0.99), 1),
        **a_job([told], jobs),
    }


def service(asked: argparse.Namespace, **how: Any) -> list[Side]:
    """This checkout's service, and the other's."""
    common = {
        "devices": 1,
        "model": str(_model_directory(asked.model)),
        "threads": asked.threads,
        "max_length_tokens": MAX_LENGTH_TOKENS,
    }
    return sides(asked.against, **{**common, **how})


def _model_directory(name: str) -> Path:
    from benchmarks.bench_engine import model_directory  # here, since it loads torch

    return model_directory(name, Path(tempfile.gettempdir()) / "rerankq-bench-models")


PARTS: dict[str, tuple[Callable[[argparse.Namespace], Iterator[Row]], int, float]] = {
    "hand-overs": (hand_overs, 24, 0.25),
    "engine": (engine, 3, 4.0),
    "peers": (peers, 3, 8.0),
    "interactive": (interactive, 3, 4.0),
    "growth": (growth, 1, 4.0),
}
"""Each with its rounds, and the seconds of a turn: many short ones where sides are compared."""


def main() -> None:
    """Run it; see --help."""
    asked = _asked()
    told: dict[str, Any] = {}
    for name in asked.parts:
        part, rounds, seconds = PARTS[name]
        how = argparse.Namespace(
            **{**vars(asked), "rounds": asked.rounds or rounds, "seconds": asked.seconds or seconds}
        )
        print(f"--- {name}: {(part.__doc__ or '').strip()}", flush=True)
        told[name] = {"rounds": how.rounds, "seconds": how.seconds, "rows": []}
        for row in part(how):
            told[name]["rows"].append(row)
            print(line(row), flush=True)
    print(json.dumps({**_circumstances(asked), **told}))


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help=f"any of {', '.join(PARTS)}; all when absent"
    )
    parser.add_argument(
        "--against", type=Path, metavar="CHECKOUT", help="its .venv's Python, where it has one"
    )
    parser.add_argument(
        "--rounds", type=int, help="that count; one more warms up. 24 of hand-overs, 1 of growth, else 3"
    )
    parser.add_argument("--seconds", type=float, help="of a turn; 0.25 of hand-overs, 8 of peers, else 4")
    parser.add_argument("--documents", type=int, nargs="+", default=list(DOCUMENTS), help="of hand-overs")
    parser.add_argument("--callers", type=int, default=CALLERS, help="of engine")
    parser.add_argument("--workers", type=int, default=2, help="of engine: Celery workers of each lane")
    parser.add_argument(
        "--rates", type=int, nargs="+", default=list(DEVICE_RATES), help="of engine: its devices' pairs/s"
    )
    parser.add_argument("--waiting", type=int, nargs="+", default=list(WAITING), help="of growth")
    parser.add_argument("--model", default="small", help="small, mini, a directory or a Hub id")
    parser.add_argument("--threads", type=int, default=1, help="of the processor, for every model")
    asked = parser.parse_args()
    asked.parts = asked.parts or list(PARTS)
    if strange := set(asked.parts) - set(PARTS):
        parser.error(f"expected parts of {', '.join(PARTS)}, got {', '.join(sorted(strange))}")
    if asked.against and not (asked.against / "tests" / "service.py").is_file():
        parser.error(f"--against: expected a checkout of rerankq, got {asked.against}")
    return asked


def _circumstances(asked: argparse.Namespace) -> Row:
    from benchmarks.bench_engine import processor_name  # here, since it loads torch

    checkouts = {"this": REPOSITORY} | ({"against": asked.against} if asked.against else {})
    return {
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{processor_name()}, {os.cpu_count()} processors",
        "load": [round(load, 1) for load in os.getloadavg()],
        "python": platform.python_version(),
        "commits": {name: _commit(path) for name, path in checkouts.items()},
        **{
            name: value
            for name, value in vars(asked).items()
            if name not in ("parts", "against", "rounds", "seconds")
        },
    }


def _commit(checkout: Path) -> str:
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    with ends_quietly():
        main()
