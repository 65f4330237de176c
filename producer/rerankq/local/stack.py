"""Redis and a worker, started in order, stopped in the other. Knows how to tell when they are ready."""

import os
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from rerankq.client import RerankClient
from rerankq.contract.errors import BrokerUnavailable
from rerankq.contract.heartbeats import IN_SERVICE
from rerankq.contract.settings import read_dotenv
from rerankq.local import worker_program
from rerankq.local.failure import Unavailable
from rerankq.local.processes import LocalProcess
from rerankq.local.redis_server import RedisServer
from rerankq.settings import ClientSettings

WORKER_STOP_SECONDS = 10.0
REDIS_STOP_SECONDS = 5.0
POLL_SECONDS = 0.1
_LOOKED_AT_LINES, _SHOWN_LINES = 200, 15
_ENDED = {"broken", "stuck"}

# What suits a laptop's one impatient user; each gives way to the environment and `.env`.
_EASY_SETTINGS = {
    "RERANKQ_MODEL": "small",
    "RERANKQ_INTERACTIVE_HARD_LIMIT_SECONDS": "900",  # a large model on a CPU takes its time
    "RERANKQ_DRAIN_SECONDS": "5",
    "RERANKQ_REDIS_TIMEOUT_SECONDS": "10",  # as for our own client below: a model loads at the same time
}


class LocalStack:
    """A Redis and a worker of this machine's own device, for the length of a `with` block.

    Everything it started ends with it: at the end of the block, on an exception, on Ctrl-C, and (on Linux) when
    this process is killed.
    """

    def __init__(
        self,
        *,
        model: str | None = None,
        settings: Mapping[str, str] | None = None,
        ready_within_seconds: float = 600.0,
        on_progress: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Start nothing yet.

        Args:
            model: hub id, directory or `small`; `RERANKQ_MODEL`, else `small`, when absent.
            settings: of the worker, by their variables; they go before the environment.
            ready_within_seconds: for the worker to load its model; a first download is part of it.
            on_progress: called with one line on what is being waited for.
        """
        self._model = model
        self._settings = settings or {}
        self._ready_within_seconds = ready_within_seconds
        self._on_progress = on_progress
        self._exit = ExitStack()  # stops and removes, last started first, what was begun so far
        self.children: list[LocalProcess] = []
        """What was started, in its order."""
        self.directory = Path()
        """Sockets and logs; of this user alone, gone at the end."""
        self.broker_url = ""

    @property
    def worker_log(self) -> Path:
        """What the worker prints."""
        return self.directory / "worker.log"

    def __enter__(self) -> Self:
        with self._exit:
            self._start()
            self._exit = self._exit.pop_all()  # all went well: nothing ends yet
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    def client(self) -> RerankClient:
        """A client of this service; the caller closes it."""
        # A laptop that loads a model at the same time may answer late; half a second is for web requests.
        patient = {} if os.environ.get("RERANKQ_REDIS_TIMEOUT_SECONDS") else {"redis_timeout_seconds": 10.0}
        urls = {"broker_url": self.broker_url, "result_url": self.broker_url}
        return RerankClient(settings=ClientSettings.load(**urls, **patient))

    def start_child(self, name: str, command: list[str]) -> LocalProcess:
        """Run one more process beside the worker, in its environment, for as long as the stack stands."""
        child = LocalProcess(
            name, command, log=self.directory / f"{name}.log", environment=self.worker_environment()
        )
        self._keep(child, WORKER_STOP_SECONDS)
        return child

    def worker_environment(self) -> dict[str, str]:
        """This process's environment, pointed at the private Redis."""
        given = {name for name, value in {**read_dotenv(), **os.environ}.items() if value}
        easy = {name: value for name, value in _EASY_SETTINGS.items() if name not in given}
        own = {
            "RERANKQ_BROKER_URL": self.broker_url,
            "RERANKQ_RESULT_URL": self.broker_url,
            "RERANKQ_RUNTIME_DIR": str(self.directory / "run"),
        }
        chosen = {} if self._model is None else {"RERANKQ_MODEL": self._model}
        return {**os.environ, **easy, **own, **chosen, **self._settings}

    def _start(self) -> None:
        worker = worker_program.serving_command()
        self._on_progress("starting Redis")
        try:
            directory = tempfile.TemporaryDirectory(prefix="rerankq-", ignore_cleanup_errors=True)
            self.directory = Path(self._exit.enter_context(directory))
            (self.directory / "run").mkdir(mode=0o700)
            redis = RedisServer(self.directory)
        except OSError as error:
            raise Unavailable(
                f"a local service has no place for its files: {error}; TMPDIR=/a/directory names one with room"
            ) from error
        self._keep(redis.child, REDIS_STOP_SECONDS)
        self.broker_url = redis.url
        self._on_progress("starting the worker")
        self.start_child("worker", worker)
        self._wait_until_ready()

    def _wait_until_ready(self) -> None:
        began = time.monotonic()
        with self.client() as client:
            while not (states := _engine_states(client)).intersection(IN_SERVICE):
                self.refuse_a_dead_child()
                if states and states <= _ENDED:  # it is started again, and would end again, for minutes
                    self._wait_for_word(": ended ")
                    raise Unavailable(
                        self._with_log("the engine ended while it loaded its model", until="engine ")
                    )
                waited = time.monotonic() - began
                if waited > self._ready_within_seconds:
                    raise Unavailable(
                        self._with_log(f"the worker was not ready within {self._ready_within_seconds:g} s")
                    )
                self._on_progress(f"the worker loads its model ({waited:.0f} s)")
                time.sleep(POLL_SECONDS)

    def refuse_a_dead_child(self) -> None:
        """
        Raises:
            Unavailable: a part has ended although nobody asked it to; with the end of its log.
        """
        child = next((child for child in self.children if child.exit_code is not None), None)
        if child is not None:
            raise Unavailable(
                self._with_log(f"the local {child.name} ended with exit code {child.exit_code}", child)
            )

    def _wait_for_word(self, word: str) -> None:
        """Give the launcher a second to log what everybody sees already."""
        give_up_at = time.monotonic() + 1
        while time.monotonic() < give_up_at:
            if any(word in line for line in self.children[-1].last_lines(_LOOKED_AT_LINES)):
                return
            time.sleep(POLL_SECONDS)

    def _with_log(self, message: str, child: LocalProcess | None = None, until: str = "") -> str:
        """The message and the end of the log, as far as the last line that says `until`."""
        lines = (child or self.children[-1]).last_lines(_LOOKED_AT_LINES)
        while lines and until not in lines[-1]:
            lines.pop()
        return "\n".join([f"{message}; its last lines:", *(f"  {line}" for line in lines[-_SHOWN_LINES:])])

    def _keep(self, child: LocalProcess, grace_seconds: float) -> None:
        self.children.append(child)
        self._exit.callback(child.stop, grace_seconds)


def _engine_states(client: RerankClient) -> set[str]:
    try:
        return {worker.state for worker in client.workers()}
    except BrokerUnavailable:
        return set()  # a child that died says more; the caller looks there
