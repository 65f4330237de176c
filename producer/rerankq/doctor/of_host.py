"""What only a worker's host can see, asked of the worker's own program: libraries, device, model. Never imports it.

Where that is not installed, what the workers tell of themselves is all there is.
"""

import json
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

from rerankq.contract.findings import Finding, broken, ok, skipped
from rerankq.contract.heartbeats import WorkerStatus
from rerankq.local import worker_program

_ALONE = "rerankq-worker doctor"


@dataclass(frozen=True, slots=True)
class LauncherHere:
    """A `rerankq-worker` that runs on this host."""

    pid: int
    is_starting: bool
    """Whether something of it has not come so far that it could serve."""


class HostReport:
    """`with HostReport() as host:`; it is begun at once, for it takes seconds, and ended with the block."""

    def __init__(self) -> None:
        self.is_asked = worker_program.may_serve()
        self.golden: dict[str, Any] | None = None
        """The model of this host and its published scores, once `findings` were read."""
        self._launcher: LauncherHere | None = None
        self._heard: list[Finding] | None = None
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        if self.is_asked:
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                worker_program.command(["doctor", "--json"]),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()

    def findings(self, timeout_seconds: float, workers: Sequence[WorkerStatus] = ()) -> Iterator[Finding]:
        """What the program found here; elsewhere, what these workers say."""
        if self._process is None:
            yield from _as_told(workers)
            return
        if self._heard is None:
            self._heard = [*self._hear(self._process, timeout_seconds)]
        yield from self._heard

    def launcher(self, timeout_seconds: float) -> LauncherHere | None:
        """Who serves here, or is about to; None where nobody is known to."""
        for _ in self.findings(timeout_seconds) if self._process else ():
            pass
        return self._launcher

    def _hear(self, process: "subprocess.Popen[str]", timeout_seconds: float) -> Iterator[Finding]:
        out, err, is_late = self._said(process, timeout_seconds)
        for line in out.splitlines():
            told = json.loads(line)
            if "finding" in told:
                yield Finding(**told["finding"])
            elif told.get("launcher"):
                self._launcher = LauncherHere(**told["launcher"])
            self.golden = told.get("golden", self.golden)
        if is_late:
            yield skipped(
                "host", f"`{_ALONE}` had not looked at all after {timeout_seconds:.0f} s; alone it does"
            )
        elif not out.strip():
            last = (err.strip().splitlines() or ["it said nothing"])[-1]
            yield broken("host", f"`{_ALONE}` failed: {last}", _ALONE)

    def _said(self, process: "subprocess.Popen[str]", timeout_seconds: float) -> tuple[str, str, bool]:
        """What it has said in that time, and whether it was not through with it."""
        try:
            return *process.communicate(timeout=timeout_seconds), False
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            return out.rpartition("\n")[0], err, True


def _as_told(workers: Sequence[WorkerStatus]) -> Iterator[Finding]:
    why = "rerankq-worker is not installed here; `rerankq doctor` on a worker's host looks"
    devices = sorted({f"{w.device} in {w.dtype}" for w in workers if w.device})
    if devices:
        yield ok("device", f"{', '.join(devices)}, as workers tell")
    models = sorted({f"{w.model}@{w.revision} ({w.family}, {w.engine})" for w in workers if w.model})
    if models:
        yield ok("model", f"{', '.join(models)}, as workers tell")
    yield skipped("host", f"driver, memory, throttling, libraries and files of the model: {why}")
