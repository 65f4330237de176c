"""Forward passes, one after another without a gap: the next is begun when the one on the device is about to be over.

The life of a pass: a batch is cut; each one concerned is told which of its rows go onto the device; one forward
pass; each gets its logits.

The life of a failing job: a batch that raises is run again, each job's share alone; the job that fails alone is told
so. Whoever runs, or is begun behind what runs, when the engine dies is a suspect; a suspect runs with nobody else.

A pass is begun behind another at the last moment, not the first: the device works in order, so bulk rows begun early
would hold up an interactive row that comes later for a whole pass more. Until then the batch is not even cut.

Knows no sockets and no signals. For one thread, which alone calls the model.
"""

import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rerankq_worker.engine_process.desk import Desk, Share
from rerankq_worker.engine_process.forecast import Forecast, Size
from rerankq_worker.engine_process.watchdog import BROKEN, Watchdog, Work
from rerankq_worker.link.frames import parted
from rerankq_worker.scoring import Begun, EngineBroken, Logits, ScoringEngine, TokenIds

log = logging.getLogger(__name__)

LONGEST_REASON_CHARACTERS = 300
LEAD_SECONDS = 0.001  # before the expected end, on top of what beginning takes the host
LONGEST_LEAD_SECONDS = 0.005  # an interactive row that just missed the pass behind waits so much longer


@dataclass(frozen=True, slots=True, eq=False)
class _Pass:
    shares: Sequence[Share]
    size: Size
    work: Work
    begun: Begun

    @property
    def runs_alone(self) -> bool:
        return self.shares[0].is_suspect


class Passes:
    """What an engine computes for whoever waits at the desk."""

    def __init__(self, engine: ScoringEngine, desk: Desk, watchdog: Watchdog) -> None:
        self._engine = engine
        self._desk = desk
        self._watchdog = watchdog
        self._forecast = Forecast()
        self._lead_seconds = LEAD_SECONDS
        self._running: _Pass | None = None
        self._again: deque[Sequence[Share]] = deque()
        """Shares of batches that raised, each of one job."""

    def go_on(self, wait_seconds: float) -> None:
        """Begin a pass, or finish the one that runs and perhaps begin one behind it; waits so long for rows."""
        running = self._running
        if running is None:
            self._running = self._begin(self._next_batch(wait_seconds))
            return
        self._running = None if self._is_over_first(running) else self._begin_behind()
        self._finish(running)

    def finish(self) -> None:
        """Deliver what runs, and begin nothing more."""
        if self._running is not None:
            self._finish(self._running)
            self._running = None

    def _is_over_first(self, running: _Pass) -> bool:
        """Whether a pass ends before it is time to begin one behind it; waits for either."""
        if running.runs_alone or running.begun.wait(0):
            return True
        expected_seconds = self._forecast.seconds_of(running.size)
        return running.begun.wait(max(0.0, expected_seconds - running.work.age_seconds - self._lead_seconds))

    def _begin_behind(self) -> _Pass | None:
        started = time.monotonic()
        behind = self._begin(self._next_batch(0, behind=True))
        if behind is not None:
            took_seconds = time.monotonic() - started
            self._lead_seconds = min(LEAD_SECONDS + took_seconds, LONGEST_LEAD_SECONDS)
        return behind

    def _next_batch(self, wait_seconds: float, *, behind: bool = False) -> Sequence[Share]:
        if self._again:
            return self._again.popleft()
        return self._desk.next_batch(wait_seconds, no_suspect=behind)

    def _begin(self, batch: Sequence[Share]) -> _Pass | None:
        batch = self._desk.announce(batch)
        if not batch:
            return None
        rows = [row for share in batch for row in share.rows]
        work = self._watchdog.begin_pass()
        try:
            begun = self._start(rows)
        except Exception as error:  # noqa: BLE001 - one job's trouble, whatever it is, must not reach the next
            self._watchdog.end_pass(work)
            self._recover(batch, error)
            return None
        return _Pass(batch, Size.of(list(map(len, rows))), work, begun)

    def _start(self, rows: Sequence[TokenIds]) -> Begun:
        begin = getattr(self._engine, "begin", None)
        return begin(rows) if begin else _Computed(self._engine.score(rows))

    def _finish(self, running: _Pass) -> None:
        try:
            logits = running.begun()
            if len(logits) != running.size.pairs:
                raise RuntimeError(
                    f"expected {running.size.pairs} logits from the engine, got {len(logits)}. This is a bug."
                )
        except Exception as error:  # noqa: BLE001 - as above
            self._watchdog.end_pass(running.work)
            self._recover(running.shares, error)
            return
        seconds = self._watchdog.end_pass(running.work, running.size.pairs, running.size.tokens)
        self._forecast.learn(running.size, seconds)
        self._obey_budget()
        shares = running.shares
        for share, share_logits in zip(shares, parted(logits, (len(s.rows) for s in shares)), strict=True):
            self._desk.deliver(share, share_logits)

    def _recover(self, batch: Sequence[Share], error: Exception) -> None:
        reason = first_line(error)
        if isinstance(error, EngineBroken):
            self._watchdog.end("broken", BROKEN, reason)
        if isinstance(error, MemoryError):
            self._watchdog.tally.count(out_of_memory=1)
        askers = list(dict.fromkeys(share.asker for share in batch if share.asker.tickets))
        if len(askers) == 1:
            log.warning("a job was refused: %s", reason)
            self._watchdog.tally.count(refused_jobs=1)
            self._desk.refuse(askers[0], reason)
            return
        self._again.extend([share for share in batch if share.asker is asker] for asker in askers)

    def _obey_budget(self) -> None:
        tokens, before = self._engine.info.max_batch_tokens, self._watchdog.status.max_batch_tokens
        if tokens == before:
            return
        self._watchdog.tally.count(out_of_memory=tokens < before)
        self._watchdog.status = replace(self._watchdog.status, max_batch_tokens=tokens)
        self._desk.limit(tokens)


@dataclass(frozen=True, slots=True)
class _Computed:
    """What an engine has that begins nothing: logits at once."""

    logits: Logits

    def wait(self, seconds: float) -> bool:  # noqa: ARG002 - there is nothing to wait for
        return True

    def __call__(self) -> Logits:
        return self.logits


def first_line(error: Exception) -> str:
    """What an error says, for a log or a refusal."""
    text = f"{type(error).__name__}: {error}".split("\n")[0]
    return text[:LONGEST_REASON_CHARACTERS]
