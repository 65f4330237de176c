"""Kill and freeze everything at random under load, and count what was lost: `python -m benchmarks.chaos --seed 1`.

Every accepted job must end in one ranking or one named error. The engine is a double that writes down what it
scores, so repetitions are counted where they cost something. The last line is one JSON document:

    accepted, answered      jobs (a pack is one) whose submission returned; those that ended in an answer
    never_answered          the difference, when nothing more was answered for PATIENCE_SECONDS in peace
    ranked                  of the answered, those that ended in a ranking rather than a named error
    vanished                of the answered, those that were told that Redis lost them
    failed                  of the answered, those that failed otherwise and are no poison
    shifted_expired         jobs of producers with a wrong clock that ended as if their deadline had passed
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
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import kombu
import psutil

from rerankq import BrokerUnavailable, QueueFull, RerankClient, RerankError
from rerankq.contract.closed_pipes import ends_quietly
from rerankq.contract.keys import queue_of
from rerankq.contract.messages import LANES, Lane
from rerankq.contract.transport.connection import LeasedAMQP
from tests import small_disk
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
MAY_NOT_ANSWER = "ACL SETUSER default resetkeys ~rerankq* ~_kombu* ~*pidbox* ~celeryev*"
SHIFTED_PRODUCER = """
import sys, time
now, shift = time.time, float(sys.argv[2])
time.time = lambda: now() + shift
from rerankq import RerankClient, RerankError
with RerankClient(sys.argv[1]) as client:
    for number in range(4):
        query = f"shifted {shift:g} {now()} {number}"
        try:
            job = client.submit(query, ["a", "b"], deadline=time.time() + 300)
        except RerankError:
            continue
        print(job.job_id, query)
"""
LIMITS = {f"{lane}_{kind}_limit_seconds": 100 for lane in LANES for kind in ("soft", "hard")}
POISONS = (KILLS_ITS_CHILD, KILLS_THE_ENGINE, KILLS_ITS_WORKER)
ENDED = ("done", "failed", "dead", "expired", "cancelled")


@dataclass(slots=True)
class Ledger:
    """What was accepted, and what was not."""

    accepted: dict[str, str] = field(default_factory=dict[str, str])
    """Queries by job id; of a pack, the first request's."""
    poisons: set[str] = field(default_factory=set[str])
    shifted: set[str] = field(default_factory=set[str])
    """Ids of the jobs of producers whose clock is off."""
    refused: int = 0


class Load:
    """Producers of every kind, without a pause but for their pace."""

    def __init__(self, client: RerankClient, model: str | None) -> None:
        """`model`: what some of the jobs name."""
        self.ledger = Ledger()
        self._client = client
        self._model = model
        self._is_over = threading.Event()
        self._threads = ThreadPoolExecutor()
        self._runs: list[Future[None]] = []

    def start(self) -> None:
        """Begin to submit."""
        kinds: list[tuple[float, Callable[[int], None]]] = [
            (0.15, lambda n: self._job(f"interactive {n}", 8, "interactive")),
            (0.5, lambda n: self._job(f"bulk {n}", 20, "bulk")),
            (0.5, lambda n: self._job(f"named {n}", 20, "bulk", self._model)),
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

    def _job(self, query: str, count: int, lane: Lane, model: str | None = None) -> None:
        job = self._client.submit(query, texts(count), lane=lane, model=model)
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

    def __init__(
        self, service: Service, ledger: "Ledger", seed: int, kinds: Collection[str] | None = None
    ) -> None:
        """`kinds`: only these."""
        self._service = service
        self._ledger = ledger
        self._random = random.Random(seed)
        self._kinds: dict[str, Callable[[], object]] = {
            "kill_child": lambda: service.kill(service.celery_child(self._lane())),
            "kill_worker": lambda: service.kill(self._worker()),
            "kill_engine": lambda: service.kill(service.engine()),
            "sigterm_worker": lambda: self._worker().send_signal(signal.SIGTERM),
            "freeze_worker": lambda: self._freeze(self._worker()),
            "freeze_and_kill_worker": self._freeze_and_kill,
            "freeze_engine": lambda: self._freeze(service.engine()),
            "kill_redis": self._kill_redis,
            "freeze_redis": self._freeze_redis,
            "fill_redis": lambda: self._told_to_redis("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0"),
            "make_redis_a_replica": lambda: self._told_to_redis("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE"),
            "refuse_answers": lambda: self._told_to_redis(MAY_NOT_ANSWER, "ACL SETUSER default allkeys"),
            "delete_lane": lambda: self._told_to_redis(f"DEL {queue_of(self._lane(), self._model())}"),
            "evict_records": self._evict_records,
            "shift_a_clock": self._submit_with_a_shifted_clock,
        }
        if small_disk.is_possible():
            self._kinds["fill_runtime_disk"] = self._fill_runtime_disk
        if kinds is not None:
            self._kinds = {kind: self._kinds[kind] for kind in kinds}
        self._deck: list[str] = []
        self.happened: Counter[str] = Counter()

    def strike(self) -> str:
        """One of them, over when this returns; its name."""
        if not self._deck:
            self._deck = self._random.sample(list(self._kinds), len(self._kinds))
        kind = self._deck.pop()
        with contextlib.suppress(psutil.NoSuchProcess):
            self._kinds[kind]()
        self.happened[kind] += 1
        return kind

    @property
    def have_all_happened(self) -> bool:
        """Whether each kind has struck at least once."""
        return len(self.happened) == len(self._kinds)

    def pause_seconds(self, longest: float) -> float:
        """Until the next one."""
        return self._random.uniform(longest / 6, longest)

    def _lane(self) -> Lane:
        return self._random.choice(LANES)

    def _model(self) -> str | None:
        return self._random.choice([None, "double"])

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

    def _told_to_redis(self, fault: str, mended: str | None = None) -> None:
        """Say something terrible to Redis, and after a while, if need be, take it back."""
        with self._service.redis.client() as redis:
            redis.execute_command(*fault.split())
            if mended:
                time.sleep(self._random.uniform(0.5, 4))
                redis.execute_command(*mended.split())

    def _evict_records(self) -> None:
        """What a Redis with an eviction policy does to keys that expire, while their messages stay."""
        with self._service.redis.client() as redis:
            found = [key for kind in ("job", "payload") for key in redis.scan_iter(f"rerankq:{kind}:*", 1000)]
            redis.delete(*self._random.sample(sorted(found), min(len(found), 20)))

    def _fill_runtime_disk(self) -> None:
        with self._service.full_disk():
            time.sleep(self._random.uniform(1, 4))

    def _submit_with_a_shifted_clock(self) -> None:
        """Jobs of a producer whose clock is seconds or hours off, with a deadline that is far enough by its own."""
        shift = self._random.choice([-1, 1]) * self._random.choice([2, 300, 7200])
        words = [sys.executable, "-c", SHIFTED_PRODUCER, self._service.redis.url, str(shift)]
        told = subprocess.run(
            words, env=self._service.environment, capture_output=True, text=True, check=False
        )
        for line in told.stdout.splitlines():
            job_id, query = line.split(maxsplit=1)
            self._ledger.accepted[job_id] = query
            self._ledger.shifted.add(job_id)


def run(
    seed: int,
    seconds: float,
    *,
    kinds: Collection[str] | None = None,
    longest_pause_seconds: float = 6.0,
    is_stock: bool = False,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """One run; the counts. It lasts until each of `kinds` has happened, all of them where none is named."""
    poison = token_of(KILLS_THE_ENGINE)
    with Service(
        engine=f"tests.witness:engine?batch_ms=5&pair_ms=0.5&load_ms=500&die={poison}",
        app="benchmarks.chaos_app:app",
        appendonly=True,
        lease_seconds=LEASE_SECONDS,
        max_batch_pairs=8,
        has_small_disk=small_disk.is_possible(),
        **LIMITS,
    ) as service:
        load = Load(service.client, None if is_stock else "double")
        faults = Faults(service, load.ledger, seed, kinds)
        say(f"seed {seed}, {seconds:g} s, {'stock transport' if is_stock else 'ours'}")
        recoveries = _under_fire(service, load, faults, seconds, longest_pause_seconds, say)
        waiting = _in_peace(service.client, load.ledger, say)
        return _counts(service, load.ledger, faults, waiting, recoveries, say) | {
            "seed": seed,
            "seconds": seconds,
            "transport": "stock" if is_stock else "rerankq",
        }


def _under_fire(
    service: Service,
    load: Load,
    faults: Faults,
    seconds: float,
    longest_pause_seconds: float,
    say: Callable[[str], None],
) -> dict[str, float]:
    over_at = time.monotonic() + seconds
    recoveries: list[tuple[str, Future[float]]] = []
    load.start()
    with ThreadPoolExecutor(32) as probes:
        while time.monotonic() < over_at or not faults.have_all_happened:
            time.sleep(faults.pause_seconds(longest_pause_seconds))
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
    service: Service,
    ledger: Ledger,
    faults: Faults,
    waiting: set[str],
    recoveries: dict[str, float],
    say: Callable[[str], None],
) -> dict[str, Any]:
    told = service.testimony()
    ends = {job_id: service.client.status(job_id) for job_id in ledger.accepted}
    vanished = {job_id for job_id, end in ends.items() if "from Redis" in (end.error or "")}
    failed = {job_id for job_id, end in ends.items() if end.state == "failed"} - vanished
    for job_id in failed:
        say(f"failed: {ledger.accepted[job_id]!r}, {ends[job_id].error}")
    scorings = [told.most_often_scored(query) for query in ledger.accepted.values()]
    return {
        "accepted": len(ledger.accepted),
        "answered": len(ledger.accepted) - len(waiting),
        "never_answered": len(waiting),
        "ranked": sum(end.state == "done" for end in ends.values()),
        "vanished": len(vanished),
        "failed": len(failed),
        "shifted_expired": sum(ends[job_id].state == "expired" for job_id in ledger.shifted),
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
    LeasedAMQP.Connection = kombu.Connection


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
    with ends_quietly():
        main()
