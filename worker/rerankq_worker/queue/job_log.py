"""The line of an attempt at a job, written at its end by whoever sees it end: the Celery child, or its parent.

Counts, times and names; never a text. Outcomes: `done`, `failed`, `dead`, `expired` and `cancelled` end the job;
`handed_on`, `given_back`, `lost` and `superseded` end an attempt, and another one follows or runs already; `repeated`
is a second copy of a message whose answer is known.
"""

import logging
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from rerankq.contract.errors import (
    Cancelled,
    DeadlineExceeded,
    InvalidRequest,
    PayloadTooLarge,
    RerankError,
)
from rerankq.contract.keys import lane_of
from rerankq.contract.messages import Ranking
from rerankq.contract.totals import outcome_of
from rerankq.contract.traces import HEADER, Origin, read
from rerankq.contract.transport.dead_letters import DeadLetter
from rerankq.contract.transport.envelope import deliveries
from rerankq_worker.queue import job_spans

_DOCUMENTS = re.compile(r"\bdocs=(\d+)")
_LEVELS = {"dead": logging.ERROR, "lost": logging.WARNING, "given_back": logging.WARNING}
_CALLERS_OWN = (InvalidRequest, PayloadTooLarge, DeadlineExceeded, Cancelled, type(None))

log = logging.getLogger("rerankq_worker.job")


@dataclass(slots=True)
class JobLine:
    """What is known of an attempt so far."""

    job: str
    queue: str
    worker: str
    attempt: int
    origin: Origin | None
    """The span that the job was submitted in."""
    began: float | None = field(default_factory=time.perf_counter)
    """By `time.perf_counter()`; None: not here."""
    wait_s: float | None = None
    docs: int | None = None
    tokens: int | None = None
    tokenize_s: float | None = None
    score_s: float | None = None
    is_repeated: bool = False
    failed: int | None = None
    """Of a pack: members that have no ranking."""

    @classmethod
    def of(cls, job: str, queue: str, worker: str, headers: Mapping[str, Any]) -> Self:
        """Of an attempt that begins, as far as its message tells."""
        found = _DOCUMENTS.search(str(headers.get("kwargsrepr")))
        docs = int(found[1]) if found else None
        return cls(job, queue, worker, deliveries(dict(headers)), read(headers.get(HEADER)), docs=docs)

    def note_answers(self, answers: Sequence[Ranking | RerankError]) -> None:
        """What was scored."""
        rankings = [answer for answer in answers if isinstance(answer, Ranking)]
        self.tokens = sum(ranking.usage.tokens for ranking in rankings)
        if rankings:
            timings = rankings[0].timings
            self.tokenize_s, self.score_s = timings.tokenize_seconds, timings.score_seconds
        self.failed = len(answers) - len(rankings) or None

    def end(self, outcome: str, *, error: BaseException | None = None, why: str | None = None) -> None:
        """Write the line.

        Args:
            error: its kind is told, never its words.
            why: words of our own.
        """
        if self.origin is not None and self.origin.is_sampled:
            self._trace(self.origin, outcome, error)
        level = _LEVELS.get(outcome, logging.INFO)
        if outcome in ("failed", "expired") and not isinstance(error, _CALLERS_OWN):
            level = logging.WARNING
        if not log.isEnabledFor(level):
            return
        fields = {
            "job": self.job,
            "lane": lane_of(self.queue),
            "worker": self.worker,
            "attempt": self.attempt,
            "outcome": outcome,
            "docs": self.docs,
            "tokens": self.tokens,
            "failed": self.failed,
            "wait_s": _rounded(self.wait_s),
            "score_s": _rounded(self.score_s),
            "total_s": self._total_s(),
            "error": None if error is None else type(error).__name__,
            "why": why,
            "trace_id": self.origin and self.origin.trace_id,
        }
        log.log(level, "job %s", outcome, extra={"fields": fields})

    def _trace(self, origin: Origin, outcome: str, error: BaseException | None) -> None:
        told = {
            "job": self.job,
            "lane": lane_of(self.queue),
            "worker": self.worker,
            "attempt": self.attempt,
            "outcome": outcome,
            "documents": self.docs,
            "tokens": self.tokens,
            "error": None if error is None else type(error).__name__,
        }
        ran_s = 0.0 if self.began is None else time.perf_counter() - self.began
        parts = {"tokenize": self.tokenize_s, "score": self.score_s}
        job_spans.write(origin, told, ran_s=ran_s, wait_s=self.wait_s, parts=parts)

    def _total_s(self) -> float | None:
        return (
            None if self.began is None else _rounded((self.wait_s or 0.0) + time.perf_counter() - self.began)
        )

    def end_by(self, error: BaseException) -> None:
        """Write the line of what ended with this error as its answer; of a dead job, whoever sets its message aside."""
        if (outcome := outcome_of(error)) != "dead":
            self.end(outcome, error=error)


def note_dead(worker: str, letter: DeadLetter, headers: Mapping[str, Any]) -> None:
    """Write the line of a job that was set aside."""
    line = JobLine.of(letter.id, letter.lane, worker, headers)
    line.attempt, line.began = letter.attempts, None
    line.end("dead", why=letter.reason)


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 4)
