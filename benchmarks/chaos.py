"""Kill and freeze everything at random under load, and count what was lost: `python -m benchmarks.chaos --seed 1`.

Every accepted job must end in one ranking or one named error. The engine is a double that writes down what it
scores, so repetitions are counted where they cost something. The last line is one JSON document:

    accepted, answered      jobs (a pack is one) whose submission returned; those that ended in an answer
    never_answered          the difference, when nothing more was answered for PATIENCE_SECONDS in peace
    ranked                  of the answered, those that ended in a ranking rather than a named error
    extra_runs              per job the times its most often scored row was scored beyond the first, summed
    poison_max_attempts     how often the worst job that kills its child, its worker or the engine was begun
    slowest_recovery_seconds  from the beginning of a fault to the answer of a job submitted after it, in either lane
    refused                 submissions that were refused or cut off; they are not accepted
"""

import argparse
import contextlib
import json
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import psutil

from rerankq import BrokerUnavailable, QueueFull, RerankClient, RerankError
from rerankq.contract import transport
from rerankq.contract.messages import LANES, Lane
from tests.service import Service
from tests.witness import token_of

# Words in a query that make a job deadly; `chaos_app` and the witness see to it.
KILLS_ITS_CHILD = "wolfsbane"
KILLS_ITS_WORKER = "hemlock"
KILLS_THE_ENGINE = "kraken"
PATIENCE_SECONDS = 90.0
RECOVERS_WITHIN_SECONDS = 120.0
LEASE_SECONDS = 3.0
POISON_EVERY_SECONDS = 20.0
LIMITS = {f"{lane}_{kind}_limit_seconds": 100 for lane in LANES for kind in ("soft", "hard")}
POISONS = (KILLS_ITS_CHILD, KILLS_THE_ENGINE, KILLS_ITS_WORKER)
ENDED = ("done", "failed", "dead", "expired", "cancelled")


@dataclass(slots=True)
class Ledger:
    """What was accepted, and what was not."""

    accepted: dict[str, str] = field(default_factory=dict[str, str])
    """Queries by job id; of a pack, the first request's."""
    poisons: set[str] = field(default_factory=set[str])
    refused: int = 0


class Load:
    """Producers of every kind, without a pause but for their pace."""

    def __init__(self, client: RerankClient) -> None:
        self.ledger = Ledger()
        self._client = client
        self._is_over = threading.Event()
        self._threads = ThreadPoolExecutor()
        self._runs: list[Future[None]] = []

    def start(self) -> None:
        """Begin to submit."""
        kinds: list[tuple[float, Callable[[int], None]]] = [
            (0.15, lambda n: self._job(f"interactive {n}", 8, "interactive")),
            (0.5, lambda n: self._job(f"bulk {n}", 20, "bulk")),
            (2.0, lambda n: self._pack(f"pack {n}", 6)),
            (8.0, lambda n: self._job(f"long {n}", 400, "bulk")),
            (POISON_EVERY_SECONDS, self._poison),
        ]
        self._runs = [self._threads.submit(self._produce, *kind) for kind in kinds]

    def stop(self) -> None:
        """Submit no more."""
        self._is_over.set()
        for produced in self._runs:
            produced.result()

    def _produce(self, pause_seconds: float, submit: Callable[[int], None]) -> None:
        number = 0
        while not self._is_over.wait(pause_seconds):
            number += 1
            try:
                submit(number)
            except (BrokerUnavailable, QueueFull):
                self.ledger.refused += 1

    def _job(self, query: str, count: int, lane: Lane) -> None:
        job = self._client.submit(query, texts(count), lane=lane)
        self.ledger.accepted[job.job_id] = query

    def _pack(self, query: str, count: int) -> None:
        requests = [self._client.request(f"{query} of {n}", texts(4), lane="bulk") for n in range(count)]
        self.ledger.accepted[self._client.send_pack(requests).job_id] = f"{query} of 0"

    def _poison(self, number: int) -> None:
        query = f"{POISONS[number % len(POISONS)]} {number}"
        self.ledger.poisons.add(query)
        self._job(query, 2, "bulk")


class Faults:
    """The things that may happen to a service."""

    def __init__(self, service: Service, seed: int) -> None:
        self._service = service
        self._random = random.Random(seed)
        self.happened: Counter[str] = Counter()

    def strike(self) -> str:
        """One of them, over when this returns; its name."""
        kinds = {
            "kill_child": lambda: self._service.kill(self._service.celery_child(self._lane())),
            "kill_worker": lambda: self._service.kill(self._worker()),
            "kill_engine": lambda: self._service.kill(self._service.engine()),
            "sigterm_worker": lambda: self._worker().send_signal(signal.SIGTERM),
            "freeze_worker": lambda: self._freeze(self._worker()),
            "freeze_and_kill_worker": self._freeze_and_kill,
            "freeze_engine": lambda: self._freeze(self._service.engine()),
            "kill_redis": self._kill_redis,
            "freeze_redis": self._freeze_redis,
        }
        kind = self._random.choice(list(kinds))
        with contextlib.suppress(psutil.NoSuchProcess):
            kinds[kind]()
        self.happened[kind] += 1
        return kind

    def pause_seconds(self) -> float:
        """Until the next one."""
        return self._random.uniform(1, 6)

    def _lane(self) -> Lane:
        return self._random.choice(LANES)

    def _worker(self) -> psutil.Process:
        return self._service.celery_worker(self._lane())

    def _freeze(self, process: psutil.Process) -> None:
        family = [process, *process.children(recursive=True)]
        for member in family:
            member.suspend()
        time.sleep(self._random.uniform(0.5, 2 * LEASE_SECONDS))
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.resume()

    def _freeze_and_kill(self) -> None:
        worker = self._worker()
        worker.suspend()
        time.sleep(self._random.uniform(0.2, 1))
        self._service.kill(worker)

    def _kill_redis(self) -> None:
        self._service.redis.kill()
        time.sleep(self._random.uniform(0.2, 2))
        self._service.redis.start()

    def _freeze_redis(self) -> None:
        self._service.redis.freeze()
        time.sleep(self._random.uniform(0.5, 4))
        self._service.redis.thaw()


def run(
    seed: int, seconds: float, *, is_stock: bool = False, say: Callable[[str], None] = print
) -> dict[str, Any]:
    """One run; the counts."""
    poison = token_of(KILLS_THE_ENGINE)
    with Service(
        engine=f"tests.witness:engine?batch_ms=5&pair_ms=0.5&load_ms=500&die={poison}",
        app="benchmarks.chaos_app:app",
        appendonly=True,
        lease_seconds=LEASE_SECONDS,
        max_batch_pairs=8,
        **LIMITS,
    ) as service:
        load = Load(service.client)
        faults = Faults(service, seed)
        say(f"seed {seed}, {seconds:g} s, {'stock transport' if is_stock else 'ours'}")
        recoveries = _under_fire(service, load, faults, seconds, say)
        waiting = _in_peace(service.client, load.ledger, say)
        return _counts(service, load.ledger, faults, waiting, recoveries) | {
            "seed": seed,
            "seconds": seconds,
            "transport": "stock" if is_stock else "rerankq",
        }


def _under_fire(
    service: Service, load: Load, faults: Faults, seconds: float, say: Callable[[str], None]
) -> dict[str, float]:
    over_at = time.monotonic() + seconds
    recoveries: list[tuple[str, Future[float]]] = []
    load.start()
    with ThreadPoolExecutor(32) as probes:
        while time.monotonic() < over_at:
            time.sleep(faults.pause_seconds())
            struck_at = time.monotonic()
            kind = faults.strike()
            for lane in LANES:
                probe = probes.submit(_recovery, service.client, lane, struck_at)
                recoveries.append((f"{kind}, {lane}", probe))
            left = over_at - time.monotonic()
            say(f"{left:6.0f} s left, {len(load.ledger.accepted):6} accepted, {kind}")
        load.stop()
    slowest: dict[str, float] = {}
    for what, probe in recoveries:
        slowest[what] = max(slowest.get(what, 0.0), round(probe.result(), 1))
    return slowest


def _recovery(client: RerankClient, lane: Lane, struck_at: float) -> float:
    """Seconds from a fault until a job submitted after it is answered."""
    while time.monotonic() - struck_at < RECOVERS_WITHIN_SECONDS:
        with contextlib.suppress(RerankError):
            client.submit("probe", ["a"], lane=lane).result(RECOVERS_WITHIN_SECONDS)
            break
        time.sleep(0.1)
    return time.monotonic() - struck_at


def _in_peace(client: RerankClient, ledger: Ledger, say: Callable[[str], None]) -> set[str]:
    """Wait for what is accepted and not answered, as long as there is progress; what remains of it."""
    waiting = set(ledger.accepted)
    give_up_at = time.monotonic() + PATIENCE_SECONDS
    while waiting and time.monotonic() < give_up_at:
        before = len(waiting)
        with contextlib.suppress(BrokerUnavailable):
            waiting -= {job_id for job_id in waiting if client.status(job_id).state in ENDED}
        if len(waiting) < before:
            give_up_at = time.monotonic() + PATIENCE_SECONDS
        say(f"left in peace: {len(waiting)} of {len(ledger.accepted)} not answered yet")
        time.sleep(2 if waiting else 0)
    for job_id in waiting:
        say(f"never answered: {ledger.accepted[job_id]!r}, {client.status(job_id)}")
    return waiting


def _counts(
    service: Service, ledger: Ledger, faults: Faults, waiting: set[str], recoveries: dict[str, float]
) -> dict[str, Any]:
    told = service.testimony()
    ranked = sum(service.client.status(job_id).state == "done" for job_id in ledger.accepted)
    scorings = [told.most_often_scored(query) for query in ledger.accepted.values()]
    return {
        "accepted": len(ledger.accepted),
        "answered": len(ledger.accepted) - len(waiting),
        "never_answered": len(waiting),
        "ranked": ranked,
        "extra_runs": sum(max(times - 1, 0) for times in scorings),
        "poison_jobs": len(ledger.poisons),
        "poison_max_attempts": max((told.most_often_begun(query) for query in ledger.poisons), default=0),
        "slowest_recovery_seconds": max(recoveries.values(), default=0.0),
        "slowest_recovery_by_fault": dict(sorted(recoveries.items())),
        "refused": ledger.refused,
        "faults": dict(sorted(faults.happened.items())),
    }


def use_stock_transport() -> None:
    """Leave kombu's Redis transport in place; call it before anything connects."""
    transport.install = lambda: None


def texts(count: int) -> list[str]:
    """Documents, no two alike."""
    return [f"document {number}" for number in range(count)]


def main() -> None:
    """Parse, run, print the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument(
        "--stock", action="store_true", help="the same on kombu's own transport, for comparison"
    )
    options = parser.parse_args()
    if options.stock:
        os.environ["CHAOS_STOCK"] = "1"
        use_stock_transport()
    counts = run(options.seed, options.seconds, is_stock=options.stock)
    print(json.dumps(counts))


if __name__ == "__main__":
    main()
