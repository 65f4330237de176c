"""Lists, workers, engines and their deaths, event by event. Knows no wall clock and no chance: arrivals are given.

What is as in the service (docs/architecture.md, `engine_process/scheduler.py`): the longest idle worker takes the first
job of its lanes, interactive before bulk; an engine cuts batches first come first served, interactive before bulk, of
which some ride along; a job of a dead worker comes back in front when its lease is over, and is set aside after its
last attempt; rows of a dead engine are asked again by the workers, who keep what is scored.
"""

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from benchmarks.simulation.figures import Figures

Lane = Literal["interactive", "bulk"]
LANES: tuple[Lane, ...] = ("interactive", "bulk")
LEASE_SECONDS = 15.0
ATTEMPTS = 3


@dataclass(slots=True, eq=False)
class Job:
    """One request, from its arrival to its end."""

    lane: Lane
    documents: int
    arrived_at: float
    taken_at: float | None = None
    ended_at: float | None = None
    is_dead: bool = False
    deliveries: int = 0
    unscored: int = 0
    unbegun: int = 0
    """Rows that no pass has taken yet."""


@dataclass(slots=True, eq=False)
class Worker:
    """A Celery worker: one job at a time."""

    device: "Device"
    lanes: Sequence[Lane]
    job: Job | None = None


@dataclass(slots=True, eq=False)
class Device:
    """An engine, and the workers beside it."""

    figures: Figures
    workers: list[Worker] = field(default_factory=list[Worker])
    rows: dict[Lane, deque[Job]] = field(default_factory=lambda: {lane: deque() for lane in LANES})
    running: list[tuple[Job, int]] = field(default_factory=list[tuple[Job, int]])
    is_up: bool = False
    is_leaving: bool = False
    engine_life: int = 0
    """Grows with each death: what was planned in an earlier life does not happen."""
    host_life: int = 0
    busy_seconds: float = 0.0
    pairs: int = 0
    """Scored."""
    up_since: float = 0.0
    up_seconds: float = 0.0


class World:
    """`World(…)`, some jobs and devices, `run_until(…)`, and what has become of the jobs."""

    def __init__(
        self, figures: Figures, *, lease_seconds: float = LEASE_SECONDS, attempts: int = ATTEMPTS
    ) -> None:
        self.now = 0.0
        self.figures = figures
        self.jobs: list[Job] = []
        self.devices: list[Device] = []
        self.lists: dict[Lane, deque[Job]] = {lane: deque() for lane in LANES}
        self.job_seconds = 0.0
        """Jobs in the house, summed over time."""
        self._lease_seconds, self._attempts = lease_seconds, attempts
        self._events: list[tuple[float, int, Callable[[], object]]] = []
        self._order = itertools.count()
        self._idle: dict[Worker, None] = {}
        """Who has waited longest stands first, as Redis wakes who blocks on a list."""
        self._inside = 0

    def at(self, when: float, do: Callable[[], object]) -> None:
        """Do something at a time to come."""
        heapq.heappush(self._events, (when, next(self._order), do))

    def run_until(self, end: float) -> None:
        """Let happen what is to happen by then."""
        while self._events and self._events[0][0] <= end:
            when, _, do = heapq.heappop(self._events)
            self._pass_time(when)
            do()
        self._pass_time(end)

    def arrive(self, jobs: Iterable[Job]) -> None:
        """Jobs to come, each at its time."""
        for job in jobs:
            self.at(job.arrived_at, lambda job=job: self._admit(job))

    def waiting(self, lane: Lane) -> int:
        """Jobs on a list."""
        return len(self.lists[lane])

    def held(self) -> int:
        """Jobs in workers' hands."""
        return sum(worker.job is not None for device in self.devices for worker in device.workers)

    def oldest_seconds(self, lane: Lane) -> float:
        """Since when the first of a list waits."""
        return self.now - self.lists[lane][0].arrived_at if self.lists[lane] else 0.0

    def busy(self) -> float:
        """The share of their time in service that the devices there are compute."""
        up = sum(d.up_seconds + (self.now - d.up_since if d.is_up else 0.0) for d in self.devices)
        return sum(device.busy_seconds for device in self.devices) / up if up else 0.0

    def _pass_time(self, when: float) -> None:
        self.job_seconds += self._inside * (when - self.now)
        self.now = when

    # --- devices come and go ---------------------------------------------------------------------------------------

    def add_device(self, after_seconds: float = 0.0) -> Device:
        """One more, once it has started and loaded its model."""
        device = Device(self.figures)
        self.devices.append(device)
        self.at(self.now + after_seconds, lambda: self._start_host(device))
        return device

    def drain(self, device: Device) -> None:
        """It takes no more jobs, and goes when it has none."""
        device.is_leaving = True
        for worker in device.workers:
            self._idle.pop(worker, None)
        self._leave_if_done(device)

    def lose_engine(self, device: Device, back_after_seconds: float) -> None:
        """Its workers keep their jobs, and what is scored of them; the rest is asked again of the next engine."""
        if not device.is_up:
            return
        self._stop_engine(device)
        life = device.engine_life
        for job, rows in reversed(device.running):
            job.unbegun += rows
            if job not in device.rows[job.lane]:
                device.rows[job.lane].appendleft(job)
        device.running = []
        self.at(
            self.now + back_after_seconds, lambda: life == device.engine_life and self._start_engine(device)
        )

    def lose_host(self, device: Device, back_after_seconds: float) -> None:
        """Its jobs come back when their leases are over."""
        if not device.workers:
            return
        self._stop_engine(device)
        device.host_life += 1
        held = [worker.job for worker in device.workers if worker.job is not None]
        for worker in device.workers:
            self._idle.pop(worker, None)
        device.workers, device.running = [], []
        device.rows = {lane: deque() for lane in LANES}
        for job in held:
            self.at(self.now + self._lease_seconds, lambda job=job: self._redeliver(job))
        if device.is_leaving:
            self._leave_if_done(device)
        else:
            self.at(self.now + back_after_seconds, lambda: self._start_host(device))

    def _start_host(self, device: Device) -> None:
        if device.workers or device.is_leaving:
            return
        both, interactive = device.figures.bulk_workers, device.figures.interactive_workers
        device.workers = [Worker(device, LANES[:1]) for _ in range(interactive)]
        device.workers += [Worker(device, LANES) for _ in range(both)]
        self._start_engine(device)
        for worker in device.workers:
            self._look_for_work(worker)

    def _start_engine(self, device: Device) -> None:
        device.is_up, device.up_since = True, self.now
        self._begin_pass(device)

    def _stop_engine(self, device: Device) -> None:
        if device.is_up:
            device.up_seconds += self.now - device.up_since
        device.is_up = False
        device.engine_life += 1

    def _leave_if_done(self, device: Device) -> None:
        if device.is_leaving and device in self.devices and not any(worker.job for worker in device.workers):
            self._stop_engine(device)
            self.devices.remove(device)

    # --- a job's way -----------------------------------------------------------------------------------------------

    def _admit(self, job: Job) -> None:
        self.jobs.append(job)
        self._inside += 1
        self._offer(job)

    def _offer(self, job: Job, *, first: bool = False) -> None:
        (self.lists[job.lane].appendleft if first else self.lists[job.lane].append)(job)
        taker = next((worker for worker in self._idle if job.lane in worker.lanes), None)
        if taker is not None:
            self._look_for_work(taker)

    def _look_for_work(self, worker: Worker) -> None:
        self._idle.pop(worker, None)
        if worker.device.is_leaving:
            self._leave_if_done(worker.device)
            return
        waiting = next((self.lists[lane] for lane in worker.lanes if self.lists[lane]), None)
        if waiting is None:
            self._idle[worker] = None
            return
        job = worker.job = waiting.popleft()
        job.deliveries += 1
        job.taken_at = self.now
        job.unscored = job.unbegun = job.documents
        life = worker.device.host_life
        ready_at = self.now + worker.device.figures.overhead_seconds(job.documents)
        self.at(ready_at, lambda: life == worker.device.host_life and self._ask_engine(worker.device, job))

    def _ask_engine(self, device: Device, job: Job) -> None:
        device.rows[job.lane].append(job)
        self._begin_pass(device)

    def _begin_pass(self, device: Device) -> None:
        if device.running or not device.is_up:
            return
        device.running = _cut(device)
        pairs = sum(rows for _, rows in device.running)
        if pairs:
            seconds, life = device.figures.pass_seconds(pairs), device.engine_life
            self.at(
                self.now + seconds, lambda: life == device.engine_life and self._end_pass(device, seconds)
            )

    def _end_pass(self, device: Device, seconds: float) -> None:
        device.busy_seconds += seconds
        scored, device.running = device.running, []
        for job, rows in scored:
            device.pairs += rows
            job.unscored -= rows
        self._begin_pass(device)
        for job, _ in scored:
            if job.unscored == 0:
                self._answer(device, job)

    def _answer(self, device: Device, job: Job) -> None:
        job.ended_at = self.now
        self._inside -= 1
        worker = next(worker for worker in device.workers if worker.job is job)
        worker.job = None
        self._look_for_work(worker)

    def _redeliver(self, job: Job) -> None:
        if job.deliveries >= self._attempts:
            job.ended_at, job.is_dead = self.now, True
            self._inside -= 1
        else:
            self._offer(job, first=True)


def _cut(device: Device) -> list[tuple[Job, int]]:
    """The rows of the next pass: as `engine_process/scheduler.py` cuts it, of rows of one length."""
    left = device.figures.batch_pairs
    batch: list[tuple[Job, int]] = []
    for lane in LANES:
        if lane == "bulk" and batch:
            left = min(left, device.figures.batch_pairs - left)  # what rides along at most doubles the pass
        waiting = device.rows[lane]
        while waiting and left:
            job = waiting[0]
            rows = min(job.unbegun, left)
            batch.append((job, rows))
            job.unbegun -= rows
            left -= rows
            if job.unbegun == 0:
                waiting.popleft()
    return batch
