"""Bulk work through the whole service: queue overhead, the device kept busy, memory that does not grow.

    python -m benchmarks.bench_bulk                                 all of them, in some minutes
    python -m benchmarks.bench_bulk memory --requests 1000000       the long form
    python -m benchmarks.bench_bulk busy --model small --jobs 40    a real engine instead of a double that sleeps

overhead  requests a second with an engine that answers at once: `rerank_many` and a file in, a file out
busy      pairs a second of jobs of 50 paragraphs, tokenizing included, over what the same engine does when called
          directly, in turns: an iterator, and a file in, a file out; and of that time the share in which it was at work
memory    the client's peak RSS over a long file, and its growth after the first tenth
formats   the client's peak RSS over `--megabytes` of text in each format, in and out; a thread answers at once
beside    what an interactive caller waits for 10 documents: alone, and while the device is full of bulk work

The last line is JSON.
"""

import argparse
import gzip
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil

from benchmarks.bulk_files import INPUTS
from benchmarks.service_sides import jobs_of
from rerankq.bulk import BulkRun, Task, rerank_many
from rerankq.contract.closed_pipes import ends_quietly
from rerankq.contract.messages import Ranking
from rerankq.packing import PackSize
from rerankq_worker.link import health
from tests.bulk.answering import AnsweringWorker
from tests.redis_server import RedisServer
from tests.service import Service

REPOSITORY = Path(__file__).parents[1]
SEED = 20260701
NOOP = "rerankq_worker.doubles:noop"
SLEEPING = (
    "rerankq_worker.doubles:slow?batch_ms=10&pair_ms=0.3"  # 1,633 pairs/s in batches of 32: about an H100
)
DOCUMENTS = 50
INTERACTIVE_DOCUMENTS = 10
FULL_AFTER_SECONDS = 2.0
MEMORY_PERIOD_SECONDS = 0.5
PARTS = ("overhead", "busy", "memory", "formats", "beside")

OUTPUTS = (
    "out.jsonl",
    "out.jsonl.gz",
    "out.csv",
    "out.parquet",
    "out.arrow",
)  # of JSON lines, with their documents
PEAK = """
import sys
from rerankq import RerankClient
from rerankq.bulk import BulkRun, Task
with RerankClient(sys.argv[1]) as client:
    task = Task(sys.argv[2], sys.argv[3], with_documents=True, queries=sys.argv[4] or None, corpus=sys.argv[5] or None)
    summary = BulkRun(task, client).run()
assert not summary.failed, summary.reasons
with open("/proc/self/status") as status:
    print(next(line.split()[1] for line in status if line.startswith("VmHWM")), summary.seconds)
"""
CLIENT = """
import sys
from rerankq import RerankClient
from rerankq.bulk import BulkRun, Task
with RerankClient(sys.argv[1]) as client:
    BulkRun(Task(sys.argv[2], sys.argv[3]), client).run()
"""


def main() -> None:
    """Run the parts that are asked for; print a table and one JSON line."""
    arguments = _arguments()
    parts = arguments.parts or PARTS
    result: dict[str, Any] = {"benchmark": "bulk", "machine": _machine()}
    for part in PARTS:
        if part in parts:
            result[part] = globals()[part](arguments)
            _print_table(part, result[part])
    print(json.dumps(result))


def overhead(arguments: argparse.Namespace) -> dict[str, Any]:
    """Requests a second with an engine that answers at once, for several sizes of request."""
    found: dict[str, Any] = {}
    with Service(engine=NOOP, bulk_workers=arguments.workers) as service:
        for documents in arguments.documents:
            count = max(arguments.requests // documents, 500)
            list(rerank_many(requests(300, documents), service.client))  # warm-up
            seconds, cpu = _timed(lambda c=count, d=documents: _drain(service, c, d))
            found[f"{documents} documents, iterator"] = _pace(count, documents, seconds, cpu)
            with _file(requests(count, documents)) as path:
                seconds, cpu = _timed(lambda p=path: _run_file(service, p))
            found[f"{documents} documents, files"] = _pace(count, documents, seconds, cpu)
    return found


def busy(arguments: argparse.Namespace) -> dict[str, Any]:
    """Pairs a second of the service over those of its engine alone, in turns."""
    engine = None if arguments.model else arguments.double
    made = itertools.islice(itertools.cycle(jobs_of(DOCUMENTS)), arguments.jobs)
    jobs = [{"query": query, "documents": documents} for query, documents in made]
    pairs = len(jobs) * DOCUMENTS
    alone: list[float] = []
    shares: dict[str, list[tuple[float, float]]] = {"iterator": [], "files": []}
    with (
        Service(engine=engine, model=arguments.model or "small", bulk_workers=arguments.workers) as service,
        _file(jobs) as path,
    ):
        size = PackSize(max_pairs=arguments.pack_pairs)
        ways = {
            "iterator": lambda: _all_ranked(rerank_many(jobs, service.client, pack_size=size)),
            "files": lambda: _run_file(service, path),
        }
        list(rerank_many(jobs[:20], service.client, pack_size=size))  # warm-up
        for _ in range(arguments.rounds):
            alone.append(_seconds_alone(service, engine, arguments.model, pairs, jobs))
            for way, work in ways.items():
                before = _engine_busy_seconds(service)
                seconds, _ = _timed(work)
                at_work = _engine_busy_seconds(service) - before
                shares[way].append((alone[-1] / seconds, at_work / seconds))
    return {
        "engine": arguments.model or arguments.double,
        "jobs": len(jobs),
        "pack pairs, iterator": arguments.pack_pairs,
        "bulk workers": arguments.workers,
        "engine alone, pairs/s": round(pairs / statistics.median(alone), 1),
        **_spreads(shares),
    }


def _spreads(shares: dict[str, list[tuple[float, float]]]) -> dict[str, str]:
    """Median and range over the rounds, of each way."""
    return {
        f"{way}, {what}": f"{statistics.median(found):.3f} ({min(found):.3f} to {max(found):.3f})"
        for way, told in shares.items()
        for what, found in zip(("of engine alone", "engine at work"), zip(*told, strict=True), strict=True)
    }


def _all_ranked(answers: Iterator[tuple[Any, Any]]) -> None:
    assert all(isinstance(answer, Ranking) for _, answer in answers), "a job failed"


def _engine_busy_seconds(service: Service) -> float:
    """Time in forward passes, as the engine tells it once it has written that it is at rest."""
    file, told_before = Path(service.environment["RERANKQ_RUNTIME_DIR"]) / "cpu0.json", None
    while True:
        told = health.read_status(file)
        if told and told_before and told.heartbeat_monotonic > told_before.heartbeat_monotonic:
            return told.busy_seconds
        told_before = told_before or told
        time.sleep(0.05)


def memory(arguments: argparse.Namespace) -> dict[str, Any]:
    """The client's resident memory over one long file."""
    with (
        Service(engine=NOOP, bulk_workers=arguments.workers) as service,
        _file(requests(arguments.requests, 1)) as path,
    ):
        out = path.with_name("out.jsonl")
        began = time.perf_counter()
        command = [sys.executable, "-c", CLIENT, service.redis.url, str(path), str(out)]
        process = subprocess.Popen(command, env={**os.environ, "RERANKQ_REDIS_TIMEOUT_SECONDS": "5"})
        samples = list(_resident_megabytes(process))
        seconds = time.perf_counter() - began
        with out.open("rb") as lines:
            written = sum(1 for _ in lines)
        redis_megabytes = service.redis.client().info("memory")["used_memory_peak"] / 1e6
    assert process.returncode == 0, "the run failed"
    assert written == arguments.requests, f"expected {arguments.requests} lines, got {written}"
    first_tenth = samples[max(len(samples) // 10, 1)]
    return {
        "requests": arguments.requests,
        "lines written": written,
        "requests/s": round(arguments.requests / seconds),
        "client peak, MB": round(max(samples), 1),
        "client after a tenth, MB": round(first_tenth, 1),
        "client at the end, MB": round(samples[-2] if len(samples) > 1 else samples[-1], 1),
        "Redis peak, MB": round(redis_megabytes, 1),
    }


def formats(arguments: argparse.Namespace) -> dict[str, Any]:
    """The client's peak resident memory over each format; `getrusage` would count what this process held."""
    found: dict[str, Any] = {}
    with RedisServer() as server, AnsweringWorker(server):
        for name, (file, write, rows) in INPUTS.items():
            if arguments.format not in name:
                continue
            with tempfile.TemporaryDirectory(prefix="rerankq-bench-") as directory:
                path = Path(directory) / file
                write(path, rows(arguments.megabytes))
                for out in OUTPUTS if name == "jsonl" else OUTPUTS[:1]:
                    found[f"{name} → {out}"] = _peak(server, path, path.with_name(out))
    return found


def _peak(server: RedisServer, path: Path, out: Path) -> dict[str, float]:
    texts = (
        [str(path.with_name(f"{name}.jsonl")) for name in ("queries", "corpus")]
        if path.suffix == ".trec"
        else ["", ""]
    )
    command = [sys.executable, "-c", PEAK, server.url, str(path), str(out), *texts]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    kilobytes, seconds = map(float, done.stdout.split())
    out.unlink()
    return {
        "peak, MB": round(kilobytes / 1000),
        "seconds": round(seconds, 1),
        "input, MB": round(path.stat().st_size / 1e6),
    }


def beside(arguments: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds an interactive caller waits, without and with bulk work on the same device."""
    with Service(engine=arguments.double, bulk_workers=arguments.workers) as service:
        _waits(service, 20)  # warm-up
        alone = _waits(service, arguments.calls)
        for_ever = rerank_many(requests(10**6, DOCUMENTS), service.client)
        with ThreadPoolExecutor(1) as threads:
            is_over = threading.Event()
            bulk = threads.submit(
                lambda: sum(1 for _ in itertools.takewhile(lambda _: not is_over.is_set(), for_ever))
            )
            time.sleep(FULL_AFTER_SECONDS)
            loaded = _waits(service, arguments.calls)
            is_over.set()
            answered = bulk.result()
        for_ever.close()
    return {"engine": arguments.double, "calls": arguments.calls, "bulk jobs meanwhile": answered} | {
        f"{name}, ms, {what}": round(1000 * value, 1)
        for what, waits in (("alone", alone), ("beside bulk", loaded))
        for name, value in (("median", statistics.median(waits)), ("worst", max(waits)))
    }


def _waits(service: Service, calls: int) -> list[float]:
    waits: list[float] = []
    for number, request in enumerate(requests(calls, INTERACTIVE_DOCUMENTS)):
        began = time.perf_counter()
        service.client.rerank(f"{request['query']} asked now {number}", request["documents"], timeout=30)
        waits.append(time.perf_counter() - began)
    return waits


def requests(count: int, documents: int) -> Iterator[dict[str, Any]]:
    """Short requests, the same every time."""
    words = random.Random(SEED)
    for number in range(count):
        texts = [f"document {words.randrange(10**6)} about subject {place}" for place in range(documents)]
        yield {"query": f"query {number}", "documents": texts}


class _file:  # noqa: N801 - reads as the function it stands for
    """A file of requests in a directory that is gone at the end."""

    def __init__(self, jobs: Iterable[dict[str, Any]]) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="rerankq-bench-")
        self.path = Path(self._directory.name) / "in.jsonl.gz"
        with gzip.open(self.path, "wt", compresslevel=1) as lines:
            for request in jobs:
                lines.write(json.dumps(request) + "\n")

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_: object) -> None:
        self._directory.cleanup()


def _drain(service: Service, count: int, documents: int) -> None:
    failed = [
        a for _, a in rerank_many(requests(count, documents), service.client) if not isinstance(a, Ranking)
    ]
    assert not failed, f"{len(failed)} requests failed: {failed[0]}"


def _run_file(service: Service, path: Path) -> None:
    out = path.with_name(f"{time.time_ns()}.jsonl")  # a run of the same name would have nothing left to do
    summary = BulkRun(Task(str(path), str(out)), service.client).run()
    assert summary.failed == 0, f"{summary.failed} requests failed: {summary.failures}"


def _timed(work: Any) -> tuple[float, float]:
    """Wall and own CPU time, in seconds."""
    cpu, began = time.process_time(), time.perf_counter()
    work()
    return time.perf_counter() - began, time.process_time() - cpu


def _pace(count: int, documents: int, seconds: float, cpu: float) -> dict[str, float]:
    return {
        "requests/s": round(count / seconds),
        "pairs/s": round(count * documents / seconds),
        "client CPU, ms a request": round(1000 * cpu / count, 3),
    }


def _seconds_alone(
    service: Service, engine: str | None, model: str | None, pairs: int, jobs: list[dict[str, Any]]
) -> float:
    """What the same engine takes for the same pairs with nobody between: full batches of 32, one after the other."""
    if engine is not None:
        batch_ms, pair_ms = (float(part.split("=")[1]) for part in engine.split("?")[1].split("&"))
        began = time.perf_counter()
        for start in range(0, pairs, 32):
            time.sleep((batch_ms + pair_ms * min(32, pairs - start)) / 1000)
        return time.perf_counter() - began
    program = [sys.executable, "-c", ALONE, str(model)]
    texts = json.dumps([[job["query"], text] for job in jobs for text in job["documents"]])
    done = subprocess.run(
        program, input=texts, env=service.environment, check=True, capture_output=True, text=True
    )
    return float(done.stdout.split()[-1])


ALONE = """
import json, sys, time
import torch
torch.set_num_threads(1)
from rerankq_worker.engine import Engine
from rerankq_worker.model.files import find_model
engine = Engine.load(find_model(sys.argv[1]).path, device="cpu", threads=1)
engine.warm_up()
pairs = [tuple(pair) for pair in json.load(sys.stdin)]
engine.score_pairs(pairs[:64])
began = time.perf_counter()
engine.score_pairs(pairs)
print(time.perf_counter() - began)
"""


def _resident_megabytes(process: "subprocess.Popen[bytes]") -> Iterator[float]:
    watched = psutil.Process(process.pid)
    while process.poll() is None:
        try:
            yield watched.memory_info().rss / 1e6
        except psutil.NoSuchProcess:
            return
        time.sleep(MEMORY_PERIOD_SECONDS)


def _print_table(title: str, found: dict[str, Any]) -> None:
    print(f"\n{title}")
    for name, value in found.items():
        print(f"  {name:32} {value}")


def _machine() -> dict[str, Any]:
    return {
        "cpus": os.cpu_count(),
        "load": [round(load, 1) for load in os.getloadavg()],
        "python": sys.version.split()[0],
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", choices=PARTS, help="all of them when absent")
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--documents", type=int, nargs="+", default=[1, 20])
    parser.add_argument("--megabytes", type=int, default=200, help="of text, for `formats`")
    parser.add_argument("--format", default="", help="of `formats` only those whose name has this in it")
    parser.add_argument("--jobs", type=int, default=1000, help="of 50 documents, for `busy`")
    parser.add_argument("--rounds", type=int, default=3, help="of `busy`")
    parser.add_argument("--calls", type=int, default=200, help="of `beside`")
    parser.add_argument("--pack-pairs", type=int, default=1024, help="of `busy`")
    parser.add_argument("--workers", type=int, default=2, help="RERANKQ_BULK_WORKERS")
    parser.add_argument(
        "--double", default=SLEEPING, help="for `busy` and `beside`: `…doubles:slow?batch_ms=…&pair_ms=…`"
    )
    parser.add_argument(
        "--model", help="for `busy`: a real model on one thread instead of the double that sleeps"
    )
    return parser.parse_args()


if __name__ == "__main__":
    with ends_quietly():
        main()
