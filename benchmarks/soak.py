"""A long even load, watched for what grows: `python -m benchmarks.soak --seconds 3600`.

The engine is a double, so that what is measured is the queue and the processes around it. The last line is one JSON
document: memory of every process at the first and the last look (the first after WARM_UP_SECONDS), connections to
Redis, channels, keys that would live for ever, messages still held.
"""

import argparse
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
from redis import Redis

from rerankq import RerankClient
from rerankq.contract.closed_pipes import ends_quietly
from rerankq.contract.messages import Lane
from tests.service import Service

WARM_UP_SECONDS = 3.0
LOOK_EVERY_SECONDS = 5.0
ACKNOWLEDGED_WITHIN_SECONDS = 0.5  # of the answer, which comes first
LIVE_FOR_EVER = (  # the short list of keys that are meant to: queues, leases, who is there
    *("rerankq.interactive", "rerankq.bulk", "rerankq.interactive.bell", "rerankq.bulk.bell"),
    *("rerankq:held", "rerankq:leases", "rerankq:delayed", "rerankq:workers", "rerankq:pace", "rerankq:dead"),
    "rerankq:totals",
)
MEGABYTE = 1_000_000


class Look:
    """What there was at one moment."""

    def __init__(self, service: Service, redis: "Redis") -> None:
        info: Any = redis.info()
        self.rss_mb = {
            name: round(process.memory_info().rss / MEGABYTE, 1) for name, process in _named(service)
        }
        self.redis_mb = round(info["used_memory"] / MEGABYTE, 1)
        self.connections = int(info["connected_clients"])


def run(seconds: float, *, say: Callable[[str], None] = print) -> dict[str, Any]:
    """One run; the figures."""
    double = "rerankq_worker.doubles:slow?batch_ms=2&pair_ms=0.1"
    with (
        Service(engine=double, result_ttl_seconds=30) as service,
        service.redis.client() as redis,
        ThreadPoolExecutor(2) as threads,
    ):
        over_at = time.monotonic() + WARM_UP_SECONDS + seconds
        lanes: tuple[Lane, ...] = ("interactive", "bulk")
        loads = [threads.submit(_ask, service.client, lane, over_at) for lane in lanes]
        time.sleep(WARM_UP_SECONDS)
        first = last = Look(service, redis)
        while time.monotonic() < over_at:
            last = Look(service, redis)
            say(f"{over_at - time.monotonic():6.0f} s left, {last.connections} connections, {last.rss_mb}")
            time.sleep(min(LOOK_EVERY_SECONDS, max(over_at - time.monotonic(), 0)))
        answered = sum(load.result() for load in loads)
        time.sleep(ACKNOWLEDGED_WITHIN_SECONDS)
        return {"seconds": seconds, "answered": answered} | _told(first, last) | _left(redis)


def _ask(client: RerankClient, lane: Lane, over_at: float) -> int:
    answered = 0
    while time.monotonic() < over_at:
        texts = [f"document {answered} {number}" for number in range(20)]
        client.submit(f"question {answered}", texts, lane=lane, deadline=time.time() + 30).result(30)
        answered += 1
    return answered


def _named(service: Service) -> list[tuple[str, psutil.Process]]:
    lanes = ("interactive", "bulk")
    return [
        ("client", psutil.Process()),
        ("launcher", service.launcher()),
        ("engine", service.engine()),
        *((f"{lane} worker", service.celery_worker(lane)) for lane in lanes),
        *((f"{lane} child", service.celery_child(lane)) for lane in lanes),
    ]


def _told(first: Look, last: Look) -> dict[str, Any]:
    return {
        "rss_mb": {name: [first.rss_mb[name], rss] for name, rss in last.rss_mb.items()},
        "redis_mb": [first.redis_mb, last.redis_mb],
        "connections": [first.connections, last.connections],
    }


def _left(redis: "Redis") -> dict[str, Any]:
    """What remains when nobody asks any more."""
    keys: list[str] = [key.decode() for key in redis.scan_iter(count=1000)]
    for_ever = [key for key in keys if redis.ttl(key) == -1 and key not in LIVE_FOR_EVER]
    channels: Any = redis.pubsub_channels("celery-task-meta-*")
    return {
        "keys_without_ttl": [key for key in for_ever if not key.startswith("_kombu.")],
        "answer_channels": len(channels),
        "held": redis.hlen("rerankq:held"),
    }


def main() -> None:
    """Parse, run, print the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=600.0)
    print(json.dumps(run(parser.parse_args().seconds)))


if __name__ == "__main__":
    with ends_quietly():
        main()
