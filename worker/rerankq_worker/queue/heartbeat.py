"""A Celery worker's heartbeat in Redis, and the gate that keeps it from taking jobs it cannot run.

Runs in the worker's main process, which never computes, so a busy device cannot make it look dead.
"""

import logging
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from celery import bootsteps
from celery.signals import celeryd_init
from celery.worker.consumer import consumer as celery_consumer
from celery.worker.state import active_requests, reserved_requests
from redis.exceptions import AuthenticationError, RedisError

from rerankq.contract.errors import InvalidSettings
from rerankq.contract.heartbeats import UNIQUE_MARK, Heartbeats, WorkerStatus, names_of, unique_ending
from rerankq.contract.keys import HEARTBEAT_PERIOD_SECONDS, lane_of, queue_of
from rerankq.contract.messages import CONTRACT_VERSION, Lane
from rerankq.contract.orders import Orders
from rerankq.contract.redis_clients import redis_client
from rerankq.contract.release import VERSION
from rerankq.contract.transport.hooks import hooks
from rerankq_worker.link import health
from rerankq_worker.queue import redis_health
from rerankq_worker.settings import WorkerSettings

HEARTBEAT_TIMEOUT_SECONDS = 1.0  # the main process renews leases too and must not hang
GATE_SECONDS = 0.2  # how long a look at the engine's status is good for; the gate is asked for at every poll

logger = logging.getLogger(__name__)


@celeryd_init.connect
def _name_uniquely(instance: Any, **_: object) -> None:
    """Two workers of one name would answer for each other, and the first to stop would take both off the list.

    A host's name proves nothing: containers share it. The launcher gives its workers a name that is unique already
    and outlives their restarts.
    """
    if UNIQUE_MARK not in instance.hostname:
        instance.hostname += unique_ending()


class Heartbeat(bootsteps.StartStopStep):
    """Beats while the worker runs; takes its name off the list when it stops."""

    requires: ClassVar[set[str]] = {"celery.worker.components:Timer"}

    def __init__(self, parent: Any, **kwargs: Any) -> None:
        super().__init__(parent, **kwargs)
        self._settings = WorkerSettings.load()
        broker = redis_client(self._settings.broker_url.get_secret_value(), HEARTBEAT_TIMEOUT_SECONDS)
        self._heartbeats = Heartbeats(broker)
        self._orders = Orders(broker)
        self._is_draining = True
        """Until Redis says otherwise: whoever was killed while it drained goes on with it."""
        self._may_hold = True
        """Whether a fetch from before it drained may still bring a job."""
        self._timers: list[Any] = []
        self._file: Path | None = None
        self._spoke_at: float | None = None
        self._is_silent = False
        self._was_ready = False
        self._names: tuple[str, ...] = ()
        """What jobs call the model that the engine held when it was last ready."""
        self._looked_at = float("-inf")
        self._told = health.NO_ENGINE
        """The engine, when it was last told how it is."""

    def start(self, parent: Any) -> None:
        """Close the gate until the engine is ready, and begin to beat.

        Raises:
            SystemExit: Redis refuses this user or password; it would say the same again for ever.
        """
        hooks.is_ready, hooks.lists_of = self._is_ready, self._lists_of
        self._begin_to_beat(parent)
        try:
            self._obey(parent)
            self._heartbeats.tell(self._status(parent))
        except AuthenticationError as error:
            logger.critical("%s", redis_health.refused("RERANKQ_BROKER_URL"))
            raise SystemExit(os.EX_CONFIG) from error
        except RedisError as error:
            self._note_silence(error)
        else:
            self._spoke_at = time.monotonic()
        self._timers = [
            parent.timer.call_repeatedly(HEARTBEAT_PERIOD_SECONDS, self._tell, (parent,)),
            parent.timer.call_repeatedly(health.BEAT_SECONDS, self._beat, (parent,)),
        ]

    def stop(self, parent: Any) -> None:
        """Say goodbye, so that nobody waits for a heartbeat to grow old."""
        for timer in self._timers:
            timer.cancel()
        if self._file is not None:
            self._file.unlink(missing_ok=True)
        try:
            self._heartbeats.leave(parent.hostname)
        except RedisError as error:
            logger.warning("could not take this worker off the list: %s", type(error).__name__)

    def _begin_to_beat(self, parent: Any) -> None:
        try:
            runtime_dir = self._settings.make_runtime_dir()
            self._file = health.beat_file(runtime_dir, parent.hostname)
            name, mark, _ = parent.hostname.partition(UNIQUE_MARK)
            health.forget_killed(runtime_dir, named=name + mark, besides=self._file)
        except InvalidSettings as error:
            logger.warning("nobody is told that this worker lives: %s", error)
        self._beat(parent)
        between_connections = celery_consumer.maybe_shutdown

        def beat_and_maybe_shutdown() -> None:
            # Called every second while Celery waits for Redis, when no timer runs.
            self._beat(parent)
            between_connections()

        celery_consumer.maybe_shutdown = beat_and_maybe_shutdown

    def _beat(self, parent: Any) -> None:
        """Tell this host that the main process lives, and when it last spoke to Redis."""
        if self._file is None:
            return
        beat = health.Beat(
            pid=os.getpid(),
            node=parent.hostname,
            heartbeat_monotonic=time.monotonic(),
            redis_monotonic=self._spoke_at,
        )
        try:
            health.write(self._file, beat)
        except OSError as error:
            logger.warning("nobody is told any more that this worker lives (%s)", error)
            self._file = None

    def _is_ready(self) -> bool:
        if time.monotonic() - self._looked_at > GATE_SECONDS:
            engine = self._engine()
            self._was_ready = health.is_healthy([engine])
            self._looked_at = time.monotonic()
            if self._was_ready:
                self._names = names_of(engine.model, engine.revision)
        return self._was_ready and not self._is_draining

    def _lists_of(self, queue: str) -> list[str]:
        """A lane's jobs that name no model, where this worker takes them, and those that name the engine's."""
        lane = lane_of(queue)
        if queue != queue_of(lane):
            return [queue]
        unnamed = [queue] if self._settings.serve_unnamed else []
        return unnamed + [queue_of(lane, name) for name in self._names]

    def _engine(self) -> health.EngineStatus:
        try:
            status = health.read_status(health.status_file(self._settings.find_engine_socket()))
        except InvalidSettings:  # no engine has been started yet, or more than one
            status = None
        return health.NO_ENGINE if status is None else health.judged(status)

    def _obey(self, parent: Any) -> None:
        """Learn whether this worker is to take no more jobs."""
        self._may_hold = not self._is_draining
        self._is_draining = self._orders.is_draining(parent.hostname)

    def _tell(self, parent: Any) -> None:
        try:
            self._obey(parent)
            self._heartbeats.tell(self._status(parent))
        except RedisError as error:
            self._note_silence(error)
        else:
            self._spoke_at, self._is_silent = time.monotonic(), False

    def _note_silence(self, error: RedisError) -> None:
        """Say once that no heartbeat goes out; that Redis serves again is the transport's line."""
        if not self._is_silent:
            logger.warning("no heartbeat is sent for now: %s", type(error).__name__)
        self._is_silent = True

    def _status(self, parent: Any) -> WorkerStatus:
        before, engine = self._told, self._engine()
        self._told = engine
        job, job_seconds = _running_job()
        queues: Any = parent.app.amqp.queues.consume_from
        lanes: tuple[Lane, ...] = tuple(lane_of(queue) for queue in queues)
        return WorkerStatus(
            name=parent.hostname,
            state=self._state(engine),
            lanes=lanes,
            limits_seconds={lane: self._settings.time_limits(lane)[0] for lane in lanes},
            device=engine.device,
            dtype=engine.dtype,
            model=engine.model,
            revision=engine.revision,
            engine=engine.engine,
            family=engine.family,
            scale=engine.scale,
            max_length_tokens=engine.max_length_tokens or self._settings.max_length_tokens,
            serves_unnamed=self._settings.serve_unnamed,
            version=VERSION,
            contract=CONTRACT_VERSION,
            host=socket.gethostname(),
            job=job,
            job_seconds=job_seconds,
            device_busy=_rate(_busy_seconds, before, engine),
            device_pairs_per_second=_rate(lambda engine: engine.pairs, before, engine),
            is_draining=self._is_draining,
        )

    def _state(self, engine: health.EngineStatus) -> str:
        if not self._is_draining or engine.state not in health.IN_SERVICE:
            return engine.state
        return "draining" if reserved_requests or self._may_hold else "drained"


def _running_job() -> tuple[str, float | None]:
    """The id of the job that the child runs, and for how long."""
    running = next(iter(active_requests), None)
    if running is None:
        return "", None
    return str(running.id), max(time.time() - (running.time_start or time.time()), 0.0)


def _busy_seconds(engine: health.EngineStatus) -> float:
    return engine.busy_seconds + (engine.pass_age_seconds or 0.0)


def _rate(
    count: Callable[[health.EngineStatus], float], before: health.EngineStatus, now: health.EngineStatus
) -> float | None:
    """By how much a counter of the engine grew a second; None where it is another engine, or has told nothing new."""
    seconds = now.heartbeat_monotonic - before.heartbeat_monotonic
    if now.pid != before.pid or seconds <= 0:
        return None
    return max(count(now) - count(before), 0.0) / seconds
