"""The workers as they tell of themselves: whether each lane and model is served, by whom, and by one release."""

import shlex
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property

from rerankq.admission import shortened
from rerankq.client import RerankClient
from rerankq.contract.findings import Finding, broken, ok, skipped, warn
from rerankq.contract.heartbeats import IN_SERVICE, WorkerStatus
from rerankq.contract.keys import lane_of_pause, queue_of
from rerankq.contract.messages import LANES, Lane
from rerankq.contract.orders import Pauses, pause_over, paused_in_words
from rerankq.doctor.of_host import LauncherHere
from rerankq.doctor.of_redis import CLOCKS_APART_SECONDS
from rerankq.settings import ClientSettings

ASKED_WITHIN_SECONDS = 2.0
_NAMES_TOLD = 3


class Around:
    """Workers and what waits for them, asked once."""

    def __init__(self, settings: ClientSettings) -> None:
        patient = max(settings.redis_timeout_seconds, ASKED_WITHIN_SECONDS)
        self.settings = settings.model_copy(update={"redis_timeout_seconds": patient})
        self.heard: list[WorkerStatus] = []
        """The workers, once they were asked for with success."""

    @cached_property
    def workers(self) -> list[WorkerStatus]:
        """Those heard of lately."""
        with RerankClient(settings=self.settings) as client:
            self.heard = client.workers()
        return self.heard

    @cached_property
    def waiting(self) -> dict[tuple[Lane, str | None], int]:
        """Jobs that no worker has taken, by lane and model."""
        with RerankClient(settings=self.settings) as client:
            return client.model_lanes()

    @cached_property
    def paused(self) -> Pauses:
        """What an operator has ordered to wait."""
        with RerankClient(settings=self.settings) as client:
            return client.paused()

    def is_paused(self, lane: Lane) -> bool:
        """Whether all jobs of a lane wait until it is resumed."""
        return pause_over(self.paused, queue_of(lane)) is not None

    def waiting_in(self, lane: Lane) -> int:
        """Jobs of a lane that no worker has taken, whichever model they name."""
        return sum(jobs for (each, _), jobs in self.waiting.items() if each == lane)

    def serving(self, lane: Lane) -> list[WorkerStatus]:
        """Who takes jobs of a lane now."""
        return [worker for worker in self.workers if lane in worker.lanes and worker.state in IN_SERVICE]


def findings(around: Around, launcher: Callable[[], LauncherHere | None] = lambda: None) -> Iterator[Finding]:
    """Whether anybody serves; then what of them is not as it should be.

    Args:
        launcher: gives, after a while, who serves on this host, or is about to; asked where nobody is heard of.
    """
    workers = around.workers
    if not workers:
        yield _nobody(sum(around.waiting.values()), launcher())
        return
    yield from _states(workers)
    yield from (_lane(lane, around) for lane in LANES)
    yield from _pauses(around)
    yield from _models(around)
    yield _releases(workers)
    yield _clocks(workers)


def _nobody(waiting: int, here: LauncherHere | None) -> Finding:
    text = f"no worker has been heard of lately on this Redis, {waiting:,} jobs wait"
    if here is None:
        return broken("workers", text, "rerankq-worker")
    its = f"rerankq-worker (pid {here.pid})"
    if here.is_starting:
        return warn("workers", f"{text}; {its} is starting some here", "rerankq-worker health")
    told = (
        f"{text}; those of {its} here ask another one, or reach none: its log tells. One more, for this Redis"
    )
    return broken("workers", told, 'RERANKQ_RUNTIME_DIR="$(mktemp -d)" rerankq-worker')


def _states(workers: Sequence[WorkerStatus]) -> Iterator[Finding]:
    by_state = {state: [w.name for w in workers if w.state == state] for state in _each("state", workers)}
    for state, names in by_state.items():
        text = f"{_counted(names)} {state}: {', '.join(names[:_NAMES_TOLD])}"
        if state in ("broken", "stuck"):
            yield broken(
                "workers", f"{text}; its log says why, as does this on its host", "rerankq-worker doctor"
            )
        elif state in ("draining", "drained"):
            yield warn("workers", f"{text}, as an operator ordered", f"rerankq resume {' '.join(names)}")
        elif state == "loading":
            yield warn("workers", f"{text}; jobs wait until the model is loaded", "rerankq-worker health")
    serving = [name for state in IN_SERVICE for name in by_state.get(state, [])]
    if serving:
        yield ok("workers", f"{_counted(serving)} in service: {', '.join(serving[:_NAMES_TOLD])}")


def _lane(lane: Lane, around: Around) -> Finding:
    check, serving = f"workers.{lane}", around.serving(lane)
    waiting = around.waiting_in(lane)
    if serving:
        return ok(check, f"{_counted(serving)} serving, {waiting:,} jobs wait")
    states = sorted({worker.state for worker in around.workers if lane in worker.lanes})
    if states:
        return skipped(check, f"its workers are {' and '.join(states)}, {waiting:,} jobs wait")
    variable = f"RERANKQ_{lane.upper()}_WORKERS"
    may_wait = lane == "bulk" and not waiting  # a scaler may start its workers when there is any
    finding = warn if may_wait else broken
    text = f"no worker in service takes jobs of this lane, {waiting:,} wait"
    return finding(check, text, f"{variable}=1 rerankq-worker")


def _pauses(around: Around) -> Iterator[Finding]:
    """Whoever paused a lane may have forgotten it."""
    for (field, order), told in zip(around.paused.items(), paused_in_words(around.paused), strict=True):
        model = f" --model {shlex.quote(order.model)}" if order.model else ""
        yield warn("workers.paused", f"paused: {told}", f"rerankq resume {lane_of_pause(field)}{model}")


def _models(around: Around) -> Iterator[Finding]:
    """Every model that jobs name is served; those that name none are answered by one model.

    That those who would serve do not is told of their states.
    """
    check, wrong = "workers.models", False
    serving = [worker for worker in around.workers if worker.state in (*IN_SERVICE, "loading")]
    for model in sorted({model for _, model in around.waiting if model is not None}):
        jobs = sum(n for (_, each), n in around.waiting.items() if each == model)
        if jobs and not any(worker.may_serve(model) for worker in around.workers):
            wrong, name = True, shortened(model)
            yield warn(
                check,
                f"{jobs:,} jobs wait for the model {name}, and no worker serves it",
                f"{_serving(name)} rerankq-worker",
            )
    unnamed = sum(jobs for (_, model), jobs in around.waiting.items() if model is None)
    answering = {f"{w.model}@{w.revision}" for w in serving if w.serves_unnamed and w.model}
    if unnamed and not any(worker.serves_unnamed for worker in around.workers):
        wrong = True
        yield warn(
            check,
            f"{unnamed:,} jobs that name no model wait, and no worker takes such",
            "RERANKQ_SERVE_UNNAMED=true rerankq-worker",
        )
    if len(answering) > 1:
        wrong = True
        yield warn(
            check,
            f"jobs that name no model are answered by {' or '.join(sorted(answering))}; one should do",
            "RERANKQ_SERVE_UNNAMED=false rerankq-worker",
        )
    if not wrong:
        yield ok(check, f"served: {', '.join(_each('model', serving)) or 'none yet'}")


def _serving(name: str) -> str:
    model, _, revision = name.partition("@")
    return f"RERANKQ_MODEL={model}" + (f" RERANKQ_MODEL_REVISION={revision}" if revision else "")


def _releases(workers: Sequence[WorkerStatus]) -> Finding:
    told = sorted({worker.version or "an earlier one" for worker in workers})
    if len(told) == 1:
        return ok("workers.version", f"all workers are of one release: {told[0]}")
    return warn(
        "workers.version",
        f"workers of several releases are at work: {', '.join(told)}; upgrade the older ones and restart them",
        "pip install --upgrade rerankq",
    )


def _clocks(workers: Sequence[WorkerStatus]) -> Finding:
    check = "workers.clock"
    told = {w.name: abs(w.clock_ahead_seconds) for w in workers if w.clock_ahead_seconds is not None}
    if not told:
        return skipped(check, "workers of an earlier release do not tell their host's clock")
    most, off = max(told.values()), [name for name in told if told[name] > CLOCKS_APART_SECONDS]
    if not off:
        return ok(check, f"{most:.1f} s from Redis's at most")
    return warn(
        check,
        f"the host's clock of {_counted(off)} is up to {most:,.0f} s from Redis's: "
        f"{', '.join(off[:_NAMES_TOLD])}; deadlines hold, times in logs do not agree",
        "timedatectl set-ntp true",
    )


def _each(name: str, workers: Sequence[WorkerStatus]) -> list[str]:
    return sorted({getattr(worker, name) for worker in workers} - {""})


def _counted(things: Sequence[object]) -> str:
    return f"{len(things)} worker{'s' if len(things) != 1 else ''}"
