"""The life of one job in a Celery child: read, tokenize, ask the engine, answer.

The rows of a pack's first requests are on the device while its others are read. What an earlier attempt has scored is
told by all rows together, so those of a later one are read first.

Knows the contract, the tokenizer and the engine's socket; no Celery message and no tensor.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from billiard.exceptions import SoftTimeLimitExceeded

from rerankq.contract.errors import Cancelled, DeadlineExceeded, InvalidRequest, JobFailed, RerankError
from rerankq.contract.heartbeats import names_of
from rerankq.contract.messages import (
    Lane,
    Limits,
    ModelInfo,
    Ranking,
    RerankRequest,
    Timings,
    Usage,
    WorkerInfo,
    is_model_name,
    parse_request,
)
from rerankq_worker.job.pace import Every, Pace
from rerankq_worker.job.ranking import rank
from rerankq_worker.job.score_sheet import Positions, ScoreSheet
from rerankq_worker.job.store import JobRecord, JobStore, Ranked, scores_in
from rerankq_worker.link.client import (
    FIRST_TICK_SECONDS,
    EngineAway,
    EngineClient,
    EngineKilledTwice,
    EngineRefused,
    Scored,
)
from rerankq_worker.model.reading import DocumentTooLong, Reader, Reading, Row, Unreadable
from rerankq_worker.scoring import EngineInfo, TokenIds

CHECKPOINT_PERIOD_SECONDS = 1.0  # a shorter job is cheaper to score again than to save
WANTED_PERIOD_SECONDS = 0.25  # between two looks at whether anybody still wants the answer
DEAD_AFTER_ENGINE_DEATHS = 2
ROWS_AT_A_TIME = 128  # four batches, read in a fifth of the time that a large card takes for them


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt at a job: what its message says of itself, whatever it carries."""

    job_id: str
    lane: Lane
    number: int
    worker: str
    queued_seconds: float
    record: JobRecord
    limit_seconds: float
    """What the operator gives a job of this lane."""
    stop_at: float
    """When no further batch is asked for, by `time.monotonic()`."""


@dataclass(slots=True)
class Member:
    """One request of a job (a job has one, a pack several) on its way to an answer."""

    request: RerankRequest | None
    rows: list[Row] = field(default_factory=list[Row])
    error: RerankError | None = None
    first_row: int = 0
    """Among those of the whole job."""

    @property
    def documents(self) -> int:
        """How many it asks about."""
        return 0 if self.request is None else len(self.request.documents)

    @property
    def positions(self) -> Positions:
        """Which of the job's rows are its own."""
        return np.arange(self.first_row, self.first_row + len(self.rows))


class ForAnotherModel(Exception):
    """The job names a model that is not served here: it waits for a worker of that one."""

    def __init__(self, model: str) -> None:
        super().__init__(model)
        self.model = model


class Superseded(Exception):
    """A later attempt has taken the job over while this one was silent; that one will answer."""


class JobRunner:
    """Answers jobs, one at a time, with one reader and one connection to the engine."""

    def __init__(
        self,
        store: JobStore,
        reader: Reader,
        engine: EngineClient,
        served: EngineInfo,
        limits: Limits,
    ) -> None:
        self._store = store
        self._reader = reader
        self._engine = engine
        self._served = served
        self._names = names_of(served.model, served.revision)
        self._scored_by = (*self._names, served.engine, served.dtype)
        self._limits = limits
        self._pace = Pace()
        self._reading_seconds = 0.0

    def is_outdated(self) -> bool:
        """Whether the engine was started anew with another model; waits for one.

        Raises:
            EngineAway
        """
        now = self._engine.describe()
        return names_of(now.model, now.revision) != self._names

    def run(self, attempt: Attempt, requests: Sequence[Mapping[str, Any]]) -> list[Ranking | RerankError]:
        """One ranking or error for each request, in order.

        Raises:
            RerankError: the job as a whole ended: cancelled, out of time, or given up.
            Superseded: this attempt no longer matters.
            ForAnotherModel: the job is not for this worker.
            EngineAway: the engine did not come back; the job is best tried elsewhere.
            EngineChanged: it came back with another model.
        """
        started = time.perf_counter()
        if attempt.record.is_cancelled:
            raise _cancelled(attempt)
        if time.monotonic() >= attempt.stop_at:
            raise DeadlineExceeded(
                f"job {attempt.job_id} was not started before its deadline", {"started": False}
            )
        self._leave_to_others(requests)
        self._engine.watch = partial(self._watch_reading, attempt, Every(WANTED_PERIOD_SECONDS))
        answers = self._run(attempt, requests, started)
        self._pace.note(attempt.lane, time.perf_counter() - started, _scored_pairs(answers))
        pairs = sum(usage.pairs for usage in _usages(answers))
        ranked = Ranked(attempt.lane, pairs, attempt.record.submitted, attempt.queued_seconds)
        self._store.note_ranked(attempt.job_id, ranked)
        pace = self._pace
        self._store.tell_pace(
            attempt.worker, pace.seconds_per_job, pace.pairs_per_second("bulk"), pace.recent_pairs
        )
        return answers

    def _run(
        self, attempt: Attempt, requests: Sequence[Mapping[str, Any]], started: float
    ) -> list[Ranking | RerankError]:
        members = [self._parse(fields) for fields in requests]
        self._reading_seconds = time.perf_counter() - started
        documents = sum(member.documents for member in members)
        self._store.start(
            attempt.job_id, attempt.lane, attempt.worker, attempt.number, attempt.record, documents=documents
        )
        sheet = ScoreSheet()
        in_time = self._score_members(attempt, members, sheet)
        timings = _timings(attempt, started, self._reading_seconds)
        return self._answers(attempt, members, sheet, timings, in_time)

    def _parse(self, fields: Mapping[str, Any]) -> Member:
        try:
            request = parse_request(fields)
            self._limits.check(request)
            self._refuse_other_model(request.model)
            return Member(request)
        except RerankError as error:
            return Member(None, error=error)

    def _read_in_parts(
        self, attempt: Attempt, members: Sequence[Member], sheet: ScoreSheet
    ) -> Iterator[Positions]:
        """Put the members' rows on the sheet; which of them are to be asked for, part by part.

        Raises:
            Cancelled, DeadlineExceeded, Superseded: the whole job is over.
        """
        checkpoint = attempt.record.checkpoint
        rows: list[Row] = []
        try:
            for member in members:
                member.first_row = len(sheet.rows) + len(rows)
                self._read_member(member)
                rows += member.rows
                if checkpoint is None and len(rows) >= ROWS_AT_A_TIME:
                    yield sheet.add(rows)
                    rows = []
        except SoftTimeLimitExceeded as error:
            raise DeadlineExceeded(
                f"the time of job {attempt.job_id} was up while its texts were read"
            ) from error
        to_ask = sheet.add(rows)
        if checkpoint is not None:
            to_ask = sheet.know(scores_in(checkpoint, sheet.rows, self._scored_by))
        yield to_ask

    def _read_member(self, member: Member) -> None:
        started = time.perf_counter()
        try:
            if member.request is not None:
                member.rows = self._read(member.request)
        except (Cancelled, DeadlineExceeded):  # of the whole job, while its texts were read
            raise
        except RerankError as error:
            member.request, member.error = None, error
        self._reading_seconds += time.perf_counter() - started

    def _leave_to_others(self, requests: Sequence[Mapping[str, Any]]) -> None:
        """Have the job waited for by workers of its model, where not one of its requests is for the one served here."""
        asked = [fields.get("model") for fields in requests]
        if not any(map(self._serves, asked)):
            raise ForAnotherModel(str(asked[0]))

    def _refuse_other_model(self, asked: str | None) -> None:
        """In a pack of several, by a client of before: whoever sent it tries alone what failed so."""
        if not self._serves(asked):
            raise JobFailed(
                "model: a worker of another one took the pack; send the request alone", {"field": "model"}
            )

    def _serves(self, asked: Any) -> bool:
        """Whether a request is for the model served here: one that names none is, or one that cannot be read."""
        return not is_model_name(asked) or asked in self._names

    def _read(self, request: RerankRequest) -> list[Row]:
        reading = Reading(
            query=request.query,
            documents=request.texts,
            max_tokens_per_doc=request.max_tokens_per_doc,
            truncation=request.truncation,
            instruction=request.instruction,
            windows=request.long_documents == "windows",
            max_windows_per_doc=request.max_windows_per_doc,
        )
        try:
            return self._reader.read(reading)
        except Unreadable as error:
            indices = {"indices": list(error.indices)} if isinstance(error, DocumentTooLong) else {}
            raise InvalidRequest(str(error), {"field": error.field, **indices}) from error
        except EngineRefused as error:
            raise JobFailed(f"the engine could not read a request: {error}", {"where": "engine"}) from error

    def _watch_reading(self, attempt: Attempt, is_time_to_ask: Every) -> None:
        if time.monotonic() >= attempt.stop_at:
            raise DeadlineExceeded(
                f"the time of job {attempt.job_id} was up while its texts were read", {"scored": 0}
            )
        if is_time_to_ask():
            self._refuse_to_go_on(attempt)

    def _score_members(self, attempt: Attempt, members: Sequence[Member], sheet: ScoreSheet) -> bool:
        """Fill the sheet in one go, and in a pack that fails so, request by request; False when time was up first."""
        parts = self._read_in_parts(attempt, members, sheet)
        try:
            in_time = self._score(attempt, sheet, parts)
        except JobFailed:
            if len(members) == 1:
                raise
            in_time = None
        for _ in parts:
            pass  # what is not scored is read all the same: its members have documents to tell of
        if in_time is None:
            return all(self._score_alone(attempt, member, sheet) for member in members)
        return in_time

    def _score_alone(self, attempt: Attempt, member: Member, sheet: ScoreSheet) -> bool:
        try:
            return self._score(attempt, sheet, iter([sheet.to_ask(member.positions)]))
        except JobFailed as error:
            member.error = JobFailed(error.message, {**error.details, "dead": False})
            member.request = None
            return True

    def _score(self, attempt: Attempt, sheet: ScoreSheet, parts: Iterator[Positions]) -> bool:
        """Ask for these rows, of which the later ones may still have to be read; False when time was up first.

        Raises:
            Cancelled, Superseded, DeadlineExceeded, JobFailed, EngineAway
        """
        asked: list[int] = []

        def rows_of(part: Positions) -> list[TokenIds]:
            asked.extend(part.tolist())
            return [sheet.rows[position].token_ids for position in part.tolist()]

        lots = (rows_of(part) for part in parts if len(part))
        if (first := next(lots, None)) is None:
            return True
        if time.monotonic() >= attempt.stop_at:
            return False
        try:
            scores = self._engine.scores(first, more=lots, job_id=attempt.job_id, lane=attempt.lane)
            with closing(scores) as answers:
                return self._take(attempt, answers, sheet, asked)
        except SoftTimeLimitExceeded:
            return False
        except EngineKilledTwice as error:
            raise JobFailed(
                f"job {attempt.job_id} was on the device {DEAD_AFTER_ENGINE_DEATHS} times when the engine died; "
                "given up",
                {"where": "engine", "attempts": attempt.number, "dead": True},
            ) from error
        except EngineRefused as error:
            raise JobFailed(
                f"the engine could not score job {attempt.job_id}: {error}", {"where": "engine"}
            ) from error
        except EngineAway:
            self._save(attempt, sheet)
            raise

    def _take(
        self, attempt: Attempt, answers: Iterable[Scored], sheet: ScoreSheet, asked: Sequence[int]
    ) -> bool:
        """Write down what comes, and keep an eye on the clock and on whether anybody still wants it."""
        is_time_to_save = Every(CHECKPOINT_PERIOD_SECONDS)
        is_time_to_ask = Every(WANTED_PERIOD_SECONDS, FIRST_TICK_SECONDS)
        for scored in answers:
            positions = [asked[index] for index in scored.indices.tolist()]
            sheet.write(np.array(positions, dtype=np.intp), scored.logits)
            if time.monotonic() >= attempt.stop_at:
                return False
            if is_time_to_ask():
                self._refuse_to_go_on(attempt)
            if is_time_to_save():
                self._save(attempt, sheet)
        return True

    def _save(self, attempt: Attempt, sheet: ScoreSheet) -> None:
        scored = sheet.scored_documents
        self._store.save_checkpoint(attempt.job_id, sheet.rows, sheet.logits, self._scored_by, scored=scored)

    def _refuse_to_go_on(self, attempt: Attempt) -> None:
        match self._store.why_stop(attempt.job_id, attempt.number):
            case "cancelled":
                raise _cancelled(attempt)
            case "superseded":
                raise Superseded(f"job {attempt.job_id}: another worker runs it by now")
            case None:
                pass

    def _answers(
        self, attempt: Attempt, members: Sequence[Member], sheet: ScoreSheet, timings: Timings, in_time: bool
    ) -> list[Ranking | RerankError]:
        job_id = attempt.job_id
        names = [job_id] if len(members) == 1 else [f"{job_id}.{number}" for number in range(len(members))]
        return [
            self._answer(attempt, name, member, sheet, timings, in_time)
            for name, member in zip(names, members, strict=True)
        ]

    def _answer(
        self, attempt: Attempt, name: str, member: Member, sheet: ScoreSheet, timings: Timings, in_time: bool
    ) -> Ranking | RerankError:
        logits = sheet.logits[member.positions]
        if member.request is None:
            return member.error or JobFailed("This is a bug: a member without request or error.")
        total = member.documents
        scored = total - sheet.unscored_documents(member.positions)
        if scored < total and not in_time and member.request.on_deadline == "fail":
            return DeadlineExceeded(
                f"{scored} of {total} documents were scored before the time was up: the job's own deadline, or the "
                f'{attempt.limit_seconds:g} s of the {attempt.lane} lane; split it, or ask for on_deadline="partial"',
                {"scored": scored, "total": total},
            )
        served = self._served
        return Ranking(
            id=name,
            model=ModelInfo(name=served.model, revision=served.revision),
            results=rank(member.request, member.rows, logits, served.scale),
            complete=scored == total,
            scored=scored,
            total=total,
            usage=self._usage(member, sheet),
            timings=timings,
            worker=WorkerInfo(
                name=attempt.worker, device=served.device, dtype=served.dtype, engine=served.engine
            ),
        )

    def _usage(self, member: Member, sheet: ScoreSheet) -> Usage:
        return Usage(
            pairs=len(member.rows),
            tokens=sum(len(row.token_ids) for row in member.rows),
            cached_pairs=int(np.count_nonzero(sheet.was_known[member.positions])),
            duplicate_pairs=int(np.count_nonzero(sheet.is_duplicate[member.positions])),
            truncated_documents=len({row.document for row in member.rows if row.truncated}),
        )


def _scored_pairs(answers: Sequence[Ranking | RerankError]) -> int:
    """Those that the engine was asked for."""
    return sum(usage.pairs - usage.cached_pairs - usage.duplicate_pairs for usage in _usages(answers))


def _usages(answers: Sequence[Ranking | RerankError]) -> list[Usage]:
    return [answer.usage for answer in answers if isinstance(answer, Ranking)]


def stop_time(deadlines: Sequence[float | None], soft_limit_seconds: float, now: float) -> float:
    """When to stop asking for batches: the last of the deadlines, or the lane's soft limit where that comes first.

    Args:
        deadlines: Unix seconds, by Redis's clock; as a sender wrote them, be it NaN or an integer beyond every float.
        now: the same clock's time.

    Returns:
        Seconds of `time.monotonic()`, which no setting of a clock moves while the job runs.
    """
    by_limit = now + soft_limit_seconds
    last = max((by_limit if deadline is None else deadline for deadline in deadlines), default=by_limit)
    return time.monotonic() + max(now, min(by_limit, last)) - now  # NaN is smaller than nothing


def _cancelled(attempt: Attempt) -> Cancelled:
    return Cancelled(f"job {attempt.job_id} was cancelled")


def _timings(attempt: Attempt, started: float, tokenize_seconds: float) -> Timings:
    now = time.perf_counter()
    return Timings(
        queued_seconds=attempt.queued_seconds,
        tokenize_seconds=tokenize_seconds,
        score_seconds=now - started - tokenize_seconds,
        total_seconds=attempt.queued_seconds + now - started,
    )
