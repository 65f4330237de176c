"""Our transport against kombu's own: jobs a second, CPU and round trips, in alternating runs on one Redis each.

    python -m benchmarks.bench_transport --jobs 2000 --rounds 4

A task that does nothing on one prefork child, so that what is measured is the way there and back. The last line
is JSON.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from celery import Celery

from rerankq.contract.closed_pipes import ends_quietly
from rerankq.contract.transport.connection import LeasedAMQP
from tests.redis_server import RedisServer

REPOSITORY = Path(__file__).parents[1]
TRANSPORTS = ("stock", "ours")
ROUND_TRIPS = 100
IDLE_SECONDS = 3


def bench_app(name: str, url: str) -> Celery:
    """A Celery app on the named transport, the same in all else."""
    amqp = LeasedAMQP if name == "ours" else None
    app = Celery("bench", broker=url, backend=url, amqp=amqp, set_as_current=False)
    app.conf.update(
        broker_transport_options={"priority_steps": [0], "queue_order_strategy": "priority"},
        broker_connection_retry_on_startup=True,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        worker_concurrency=1,
        task_default_queue="lane",
    )
    app.task(name="nothing", shared=False)(nothing)
    return app


def nothing() -> None:
    """The task: what it costs is the way there and back."""


@contextmanager
def worker(name: str, server: RedisServer) -> Iterator[int]:
    """A worker process on the named transport; yields its pid."""
    paths = os.pathsep.join(map(str, (REPOSITORY, REPOSITORY / "producer")))
    command = [sys.executable, "-m", "benchmarks.bench_transport", "--worker", name, "--url", server.url]
    process = subprocess.Popen(
        command,
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait()


def one_run(name: str, jobs: int) -> dict[str, float]:
    """One fresh Redis, one worker, `jobs` jobs at once, a few one by one, then nothing to do."""
    with RedisServer() as server:
        app = bench_app(name, server.url)
        with worker(name, server) as pid:
            app.send_task("nothing").get(timeout=30)
            worker_before, redis_before = cpu_seconds(pid), cpu_seconds(server.pid)
            started, publisher_before = time.perf_counter(), time.process_time()
            for _ in range(jobs):
                app.send_task("nothing", ignore_result=True)
            publishing, publisher_cpu = time.perf_counter() - started, time.process_time() - publisher_before
            wait_until_drained(server)
            draining = time.perf_counter() - started
            worker_cpu, redis_cpu = cpu_seconds(pid) - worker_before, cpu_seconds(server.pid) - redis_before
            trips = [round_trip_seconds(app) for _ in range(ROUND_TRIPS)]
            idle_before = cpu_seconds(pid)
            time.sleep(IDLE_SECONDS)
            idle_cpu = cpu_seconds(pid) - idle_before
        app.close()
    return {
        "jobs_per_second": jobs / draining,
        "published_per_second": jobs / publishing,
        "worker_cpu_ms_per_job": 1000 * worker_cpu / jobs,
        "redis_cpu_ms_per_job": 1000 * redis_cpu / jobs,
        "publisher_cpu_ms_per_job": 1000 * publisher_cpu / jobs,
        "round_trip_ms": 1000 * statistics.median(trips),
        "idle_worker_cpu_percent": 100 * idle_cpu / IDLE_SECONDS,
    }


def wait_until_drained(server: RedisServer) -> None:
    with server.client() as client:
        while any((client.llen("lane"), client.hlen("unacked"), client.hlen("rerankq:held"))):
            time.sleep(0.02)


def round_trip_seconds(app: Celery) -> float:
    started = time.perf_counter()
    app.send_task("nothing").get(timeout=30)
    return time.perf_counter() - started


def cpu_seconds(pid: int) -> float:
    """CPU time of one process without its children: of a worker the parent, where the transport lives."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def summary(runs: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Median and spread of each figure, and ours / stock of the medians."""
    figures: dict[str, Any] = {}
    for figure in runs["stock"][0]:
        values = {name: [run[figure] for run in runs[name]] for name in TRANSPORTS}
        medians = {name: statistics.median(values[name]) for name in TRANSPORTS}
        figures[figure] = {
            **{name: round(medians[name], 3) for name in TRANSPORTS},
            "spread": {name: [round(min(found), 3), round(max(found), 3)] for name, found in values.items()},
            "ratio": round(medians["ours"] / medians["stock"], 3) if medians["stock"] else None,
        }
    return figures


def work(name: str, url: str) -> None:
    """The worker process."""
    argv = ["worker", "--pool", "prefork", "-Q", "lane", "--loglevel", "WARNING"]
    bench_app(name, url).worker_main([*argv, "--without-gossip", "--without-mingle"])


def compare(jobs: int, rounds: int) -> None:
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in TRANSPORTS}
    for number in range(rounds):
        for name in TRANSPORTS if number % 2 == 0 else TRANSPORTS[::-1]:
            runs[name].append(one_run(name, jobs))
    figures = summary(runs)
    print(f"{'':28}{'stock':>12}{'ours':>12}{'ratio':>9}")
    for figure, told in figures.items():
        print(f"{figure:28}{told['stock']:12.3f}{told['ours']:12.3f}{told['ratio'] or 0:9.3f}")
    print(json.dumps({"benchmark": "transport", "jobs": jobs, "rounds": rounds, "figures": figures}))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--worker", choices=TRANSPORTS, help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker, options.url)
    else:
        compare(options.jobs, options.rounds)


if __name__ == "__main__":
    with ends_quietly():
        main()
