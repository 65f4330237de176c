"""What one Redis carries: its processor time, bytes and memory a job, and what workers cost it that have nothing to do.

    python -m benchmarks.bench_redis [jobs] [apart] [bulk] [waiting] [idle] [scrape] --seconds 5

A service whose engine answers at once, asked by its own clients: every script and command is the real one. Redis runs
its commands on one processor: its seconds a job are what bounds the jobs a second, whoever shares the machine. The last
line is JSON.
"""

import argparse
import json
import time
import urllib.request
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from benchmarks.service_sides import jobs_of
from rerankq.bulk import rerank_many
from rerankq.contract.closed_pipes import ends_quietly
from tests.redis_server import RedisServer, free_port
from tests.service import Service

NOOP = "rerankq_worker.doubles:noop"
CALLERS = 16
DOCUMENTS = (1, 10, 50)
WAITING = (1_000, 5_000)
WORKERS = (1, 9)
SCRAPES = 20
PATIENCE_SECONDS = 60.0

Row = dict[str, Any]


class Spent:
    """What a Redis has spent, between two looks."""

    def __init__(self, redis: RedisServer) -> None:
        with redis.client() as client:
            told = client.info()
            self.commands = sum(each["calls"] for each in client.info("commandstats").values())
        self.clock = time.monotonic()
        self.cpu = told["used_cpu_user"] + told["used_cpu_sys"]
        self.memory = told["used_memory"]
        self.received, self.sent = told["total_net_input_bytes"], told["total_net_output_bytes"]

    def until(self, later: "Spent", jobs: int) -> Row:
        """For each job."""
        cpu = (later.cpu - self.cpu) / jobs
        return {
            "jobs": jobs,
            "per_second": round(jobs / (later.clock - self.clock), 1),
            "redis_ms": round(1000 * cpu, 3),
            "commands": round((later.commands - self.commands) / jobs, 1),
            "received_bytes": round((later.received - self.received) / jobs),
            "sent_bytes": round((later.sent - self.sent) / jobs),
            "left_bytes": round((later.memory - self.memory) / jobs),
            "jobs_a_redis_second": round(1 / cpu),
        }


@contextmanager
def service(options: argparse.Namespace, **settings: Any) -> Generator[Service]:
    """With a log that is synced as `deploy/redis/redis.conf` has it, or none."""
    chosen = {"interactive_workers": options.interactive_workers, **settings}
    with Service(engine=NOOP, appendonly=options.appendonly, **chosen) as running:
        yield running


def jobs(options: argparse.Namespace) -> list[Row]:
    """Interactive jobs, each of one caller who waits for it."""
    rows: list[Row] = []
    with service(options) as running:
        for documents in DOCUMENTS:
            asked = jobs_of(documents)

            def ask(number: int, asked: Any = asked) -> None:
                running.client.rerank(*asked[number % len(asked)], timeout=PATIENCE_SECONDS)

            ask(0)
            rows.append({"documents": documents, **_asked(running, ask, options)})
    return rows


def _asked(running: Service, ask: Callable[[int], None], options: argparse.Namespace) -> Row:
    before, over_at = Spent(running.redis), time.monotonic() + options.seconds

    def caller(number: int) -> int:
        asked = 0
        while time.monotonic() < over_at:
            ask(number + asked)
            asked += 1
        return asked

    with ThreadPoolExecutor(options.callers) as callers:
        done = sum(callers.map(caller, range(options.callers)))
    return before.until(Spent(running.redis), done)


def apart(options: argparse.Namespace) -> list[Row]:
    """The same jobs, with answers in a Redis of their own."""
    with RedisServer() as answers, service(options, result_url=answers.url) as running:
        asked = jobs_of(DOCUMENTS[-1])

        def ask(number: int) -> None:
            running.client.rerank(*asked[number % len(asked)], timeout=PATIENCE_SECONDS)

        ask(0)
        before = Spent(answers)
        lanes = _asked(running, ask, options)
        return [
            {"of": "lanes", "documents": DOCUMENTS[-1], **lanes},
            {"of": "answers", "documents": DOCUMENTS[-1], **before.until(Spent(answers), lanes["jobs"])},
        ]


def bulk(options: argparse.Namespace) -> list[Row]:
    """Bulk jobs of 50 documents in packs."""

    def endless(asked: Any, until: float) -> Iterator[Any]:
        number = 0
        while time.monotonic() < until:
            yield asked[number % len(asked)]
            number += 1

    with service(options) as running:
        before = Spent(running.redis)
        asked = endless(jobs_of(50), time.monotonic() + 4 * options.seconds)
        done = sum(1 for _ in rerank_many(asked, running.client, ordered=False))
        return [{"documents": 50, **before.until(Spent(running.redis), done)}]


def waiting(options: argparse.Namespace) -> list[Row]:
    """Memory of jobs that nobody takes: between two counts, so that what is there anyway is left out."""
    rows: list[Row] = []
    for documents in DOCUMENTS:
        with RedisServer(appendonly=options.appendonly) as redis, redis.client() as client:
            producer = _producer_for(redis)
            used, spent = [], [Spent(redis)]
            for few, many in zip((0, *WAITING), WAITING, strict=False):
                for query, texts in _distinct(documents, few, many):
                    producer.submit(query, texts, lane="bulk")
                used.append(client.info("memory")["used_memory"])
            producer.close()
            spent.append(Spent(redis))
            row = spent[0].until(spent[1], WAITING[-1])
            rows.append(
                {
                    "documents": documents,
                    "characters": sum(map(len, jobs_of(documents)[0][1])),
                    "bytes_a_waiting_job": round((used[1] - used[0]) / (WAITING[1] - WAITING[0])),
                    "submit_redis_ms": row["redis_ms"],
                    "submit_received_bytes": row["received_bytes"],
                }
            )
    return rows


def _producer_for(redis: RedisServer) -> Any:
    from rerankq import RerankClient
    from rerankq.settings import ClientSettings

    return RerankClient(settings=ClientSettings.load(broker_url=redis.url, max_bulk_jobs=10**6))


def _distinct(documents: int, few: int, many: int) -> Iterator[tuple[str, list[str]]]:
    asked = jobs_of(documents)
    for number in range(few, many):
        query, texts = asked[number % len(asked)]
        yield f"{query} {number}", texts


def idle(options: argparse.Namespace) -> list[Row]:
    """A service that nobody asks, of few and of many Celery workers: the difference is theirs."""
    rows: list[Row] = []
    for workers in WORKERS:
        with service(options, interactive_workers=workers) as running:
            time.sleep(options.seconds)  # their first words are over
            before = Spent(running.redis)
            time.sleep(4 * options.seconds)
            spent = before.until(Spent(running.redis), 1)
            with running.redis.client() as client:
                connections, memory = len(client.client_list()), client.info("memory")["used_memory"]
        seconds = 4 * options.seconds
        rows.append(
            {
                "workers": workers + 1,
                "redis_ms_a_second": round(spent["redis_ms"] / seconds, 3),
                "commands_a_second": round(spent["commands"] / seconds, 1),
                "bytes_a_second": round((spent["received_bytes"] + spent["sent_bytes"]) / seconds),
                "connections": connections,
                "used_memory": memory,
            }
        )
    few, many = rows[0], rows[-1]
    more = many["workers"] - few["workers"]
    rows.append(
        {"a worker": {name: round((many[name] - few[name]) / more, 3) for name in few if name != "workers"}}
    )
    return rows


def scrape(options: argparse.Namespace) -> list[Row]:
    """A launcher's metrics, with nothing waiting and with much."""
    port = free_port()
    rows: list[Row] = []
    with service(options, metrics_port=port, bulk_workers=0) as running:
        producer = running.producer(max_bulk_jobs=10**6)
        for count in (0, *WAITING):
            already = rows[-1]["waiting"] if rows else 0
            for query, texts in _distinct(1, already, count):
                producer.submit(query, texts, lane="bulk")
            url = f"http://127.0.0.1:{port}/metrics"
            _get(url)
            before = Spent(running.redis)
            for _ in range(SCRAPES):
                _get(url)
            spent = before.until(Spent(running.redis), SCRAPES)
            rows.append(
                {"waiting": count, **{name: spent[name] for name in ("redis_ms", "commands", "sent_bytes")}}
            )
        producer.close()
    return rows


def _get(url: str) -> None:
    with urllib.request.urlopen(url, timeout=PATIENCE_SECONDS) as answer:
        answer.read()


PARTS = {part.__name__: part for part in (jobs, apart, bulk, waiting, idle, scrape)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all when left out")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--appendonly", action="store_true", help="with a log, synced before each answer")
    parser.add_argument("--callers", type=int, default=CALLERS)
    parser.add_argument("--interactive-workers", type=int, default=1)
    options = parser.parse_args()
    found: dict[str, list[Row]] = {}
    for name in options.parts or PARTS:
        found[name] = PARTS[name](options)
        for row in found[name]:
            print(name, *(f"{key} {value}" for key, value in row.items()), sep="  ", flush=True)
    print(json.dumps({"benchmark": "redis", "appendonly": options.appendonly, "found": found}))


if __name__ == "__main__":
    with ends_quietly():
        main()
