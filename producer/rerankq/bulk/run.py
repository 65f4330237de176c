"""A bulk run from its first row to its last: begin or resume, answer every row, make it safe, tell how it went."""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rerankq.bulk.evaluate import Evaluator, Verdict, can_evaluate
from rerankq.bulk.formats import Reader
from rerankq.bulk.output import sidecar as state
from rerankq.bulk.output.ledger import (
    FileLedger,
    clear_away,
    refuse_changed_output,
    refuse_foreign,
    retry_path,
)
from rerankq.bulk.output.outcome import Outcome, Scribe
from rerankq.bulk.output.sidecar import Sidecar, errors_path
from rerankq.bulk.output.streams import StreamLedger
from rerankq.bulk.output.totals import Quality, Totals
from rerankq.bulk.plan import Plan
from rerankq.bulk.progress import Meter, Progress
from rerankq.bulk.rows import Entry, place_of
from rerankq.bulk.selection import ALL
from rerankq.bulk.sending.asking import WINDOW_BYTES, Window, answered, in_order, of_some_use, validated
from rerankq.bulk.sending.pack_sender import AnsweredPack, PackSender, bulk_workers, nobody_there
from rerankq.bulk.sending.packing import Pack, cut
from rerankq.bulk.sending.retry_budget import RetryBudget
from rerankq.bulk.task import Task
from rerankq.client import RerankClient
from rerankq.contract.errors import BrokerUnavailable, InvalidRequest, InvalidSettings
from rerankq.contract.heartbeats import WorkerStatus, names_of
from rerankq.contract.messages import ModelInfo, Ranking
from rerankq.packing import PackSize, pairs_for
from rerankq.submission import new_job_id

LOADING_PERIOD_SECONDS = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary(Verdict):
    """How a run went, an earlier part of it included, and what judgements say of its output."""

    output: str
    errors: str | None
    """Where the rows that failed are; None when there are none."""
    model: str
    rows: int
    failed: int
    failures: dict[str, int]
    reasons: list[str]
    """Of the first rows that failed."""
    pairs: int
    tokens: int
    cached_pairs: int
    truncated_documents: int
    seconds: float
    """Of this run alone, as the pace is."""
    pairs_per_second: float
    resumed_rows: int
    """Rows that an earlier run had done."""


class BulkRun:
    """One task against one service."""

    def __init__(
        self,
        task: Task,
        client: RerankClient,
        *,
        progress: Progress | None = None,
        window_bytes: int = WINDOW_BYTES,
    ) -> None:
        self._plan = Plan(task)
        self._task = task
        self._client = client
        self._progress = progress or Progress()
        self._window_bytes = window_bytes
        self._evaluator = _evaluator(task)
        self._began = time.monotonic()
        self._first_free = 0

    def run(self, *, restart: bool = False, overwrite: bool = False, retry_errors: bool = False) -> Summary:
        """Do the task, or what is left of it.

        Args:
            restart: forget what an earlier run has done, and overwrite it.
            overwrite: with `restart`, also what no run of ours has begun.
            retry_errors: once all is answered, ask again what failed.

        Raises:
            InvalidRequest: the output was begun from something else, or the input is broken.
            BrokerUnavailable, NoWorkers: it was so for longer than its retry budget. What is done is safe.
        """
        if self._plan.is_stream:
            return self._to_stream()
        out, lines_path = Path(self._task.output), self._plan.lines_path
        if not (restart and overwrite):
            refuse_foreign(out)
        if restart:
            clear_away(out, lines_path)
        earlier = None if restart else self._earlier(out)
        if earlier is not None and earlier.is_complete and not (retry_errors and earlier.tally.failed):
            refuse_changed_output(lines_path, out, earlier)
            self._write_gathered(out)
            return self._summary(earlier.tally, earlier.tally, earlier.model, earlier.judged_by)
        sidecar = self._begin_or_go_on(out, earlier)
        with FileLedger(out, self._plan.lines_path, sidecar, self._plan.writer().header()) as ledger:
            state.save(out, sidecar)
            if self._plan.gather:  # the output of a run that goes on is there only once it is whole
                out.unlink(missing_ok=True)
            before = ledger.tally.model_copy(deep=True)
            if not sidecar.is_complete:
                self._first_round(ledger)
            if retry_errors and ledger.tally.failed:
                ledger.begin_retry()
                self._round(ledger)
            self._finish(out, ledger)
        return self._summary(ledger.tally, before, sidecar.model, sidecar.judged_by)

    def _earlier(self, out: Path) -> Sidecar | None:
        """The state to resume, checked against input and settings."""
        earlier = state.load(out)
        if earlier is not None:
            state.refuse_changed(earlier, self._plan.settings(), self._plan.identities())
        return earlier

    def _begin_or_go_on(self, out: Path, earlier: Sidecar | None) -> Sidecar:
        workers = wait_for_workers(self._client, self._task.options.get("model"))
        model = model_of(workers)
        if earlier is None:
            return Sidecar(
                run=new_job_id(),
                model=model,
                settings=self._plan.settings(),
                pack_pairs=self._task.pack_pairs or pairs_for(workers),
                inputs=self._plan.identities(is_whole=True),
                judged_by=self._judges_by,
            )
        state.refuse_other_model(earlier, model)
        if self._task.pack_pairs not in (None, earlier.pack_pairs):
            raise InvalidRequest(
                f"{out} was begun with --pack-pairs {earlier.pack_pairs}; leave the option out to go on with it",
                {"field": "pack-pairs"},
            )
        if earlier.judged_by != self._judges_by:
            return earlier.model_copy(update={"judged_by": None})
        return earlier

    @property
    def _judges_by(self) -> str | None:
        return None if self._evaluator is None else self._evaluator.identity

    def _first_round(self, ledger: FileLedger) -> None:
        try:
            self._round(ledger)
        except InvalidRequest:
            if (
                not ledger.sidecar.done
            ):  # nothing is there to go on from: the next run may read it in another way
                clear_away(Path(self._task.output), self._plan.lines_path, is_held=True)
                self._plan.lines_path.unlink(missing_ok=True)
            raise

    def _round(self, ledger: FileLedger) -> None:
        sidecar = ledger.sidecar
        out = Path(self._task.output)
        is_retry = sidecar.round > 1
        reader = self._plan.retry_reader(retry_path(out, sidecar.round)) if is_retry else self._plan.reader
        name = f"{sidecar.run} round {sidecar.round}"
        entries = self._entries(
            reader, sidecar.model, sidecar.first_open, sidecar.first_free if is_retry else None
        )
        if not is_retry and sidecar.first_open == 0:
            entries = of_some_use(entries, self._task.input)
        packs = cut(entries, PackSize(max_pairs=sidecar.pack_pairs))
        open_packs = (pack for pack in packs if not sidecar.covers((pack.start, pack.stop)))
        is_ordered = self._task.is_ordered and not is_retry
        first = sidecar.first_open if is_ordered else None
        evaluator = None if sidecar.judged_by is None else self._evaluator
        self._answer(open_packs, name, ledger, reader, first, sidecar.model, evaluator)
        ledger.complete_round(0 if is_retry else self._first_free)
        if is_retry:
            ledger.end_retry()

    def _answer(
        self,
        packs: Iterator[Pack],
        name: str,
        ledger: FileLedger | StreamLedger,
        reader: Reader,
        in_order_from: int | None,
        model: ModelInfo,
        evaluator: Evaluator | None,
    ) -> None:
        """Answer the packs into the ledger; whatever ends this, what is there by then is safe."""
        window = Window(self._window_bytes)
        scribe = Scribe(self._plan.writer(), evaluator, errors_among_answers=self._plan.is_stream)
        meter = Meter(ledger.tally)
        rows_total = self._plan.rows_total()
        sender = PackSender(self._client, name)

        def watch() -> None:
            if ledger.is_due:
                sender.clear(ledger.commit())
            fraction = reader.fraction_read()
            snapshot = meter.snapshot(
                ledger.tally,
                fraction,
                rows_total,
                sender.in_flight,
                len(sender.workers),
                paused_models=sender.paused_models,
            )
            self._progress.show(snapshot)

        try:
            answered_packs = _of_one_model(answered(packs, sender, window, watch), sender, model)
            outcomes = _outcomes(answered_packs, scribe, window)
            if in_order_from is not None:
                outcomes = in_order(outcomes, lambda outcome: (outcome.start, outcome.stop), in_order_from)
            for outcome in outcomes:
                ledger.add(outcome)
                window.release(outcome.size_bytes)
        finally:
            sender.clear(ledger.commit())
            sender.close()

    def _entries(
        self, reader: Reader, model: ModelInfo, start: int, first_free: int | None = None
    ) -> Iterator[Entry]:
        """The rows from a position on; those before are passed over without a look.

        Args:
            first_free: of an errors file, the place of its first row, should the row not tell its own.
        """
        rows = self._plan.rows(start) if first_free is None else ALL.rows(reader, start)
        for position, row in enumerate(rows, start=start):
            if first_free is not None and row.first_position is None:
                row = replace(row, first_position=first_free + position)
            entry = _for_model(model, validated(position, row, self._client, self._task.options))
            self._first_free = place_of(entry) + 1
            yield entry

    def _finish(self, out: Path, ledger: FileLedger) -> None:
        ledger.drop_empty_errors()
        if self._write_gathered(out):
            ledger.note_whole_file(out)
            if not ledger.tally.failed:  # else rows asked again are added to them
                self._plan.lines_path.unlink()

    def _write_gathered(self, out: Path) -> bool:
        """Turn the lines gathered for a format that cannot be appended to into the output, unless that is done."""
        is_due = self._plan.gather is not None and not out.exists()
        if self._plan.gather and is_due:
            self._plan.gather(self._plan.lines_path, out)
        return is_due

    def _to_stream(self) -> Summary:
        workers = wait_for_workers(self._client, self._task.options.get("model"))
        model = model_of(workers)
        ledger = StreamLedger(self._task.output, self._plan.writer().header())
        reader = self._plan.reader
        packs = cut(
            of_some_use(self._entries(reader, model, 0), self._task.input),
            PackSize(max_pairs=self._task.pack_pairs or pairs_for(workers)),
        )
        in_order_from = 0 if self._task.is_ordered else None
        try:
            self._answer(packs, new_job_id(), ledger, reader, in_order_from, model, self._evaluator)
        finally:
            ledger.close()
        return self._summary(ledger.tally, Totals(), model, self._judges_by)

    def _summary(
        self, tally: Totals, before: Totals, model: ModelInfo, sums_judged_by: str | None
    ) -> Summary:
        seconds = time.monotonic() - self._began
        failed_to = None if self._plan.is_stream else str(errors_path(Path(self._task.output)))
        return Summary(
            output=self._task.output,
            errors=failed_to if tally.failed else None,
            model=f"{model.name}@{model.revision}",
            **tally.model_dump(exclude={"quality"}),
            seconds=seconds,
            pairs_per_second=(tally.pairs - before.pairs) / seconds if seconds > 0 else 0.0,
            resumed_rows=min(before.rows, tally.rows),  # rows may have been taken out of an errors file
            **asdict(self._judged(tally.quality, sums_judged_by)),
        )

    def _judged(self, sums: Quality, sums_judged_by: str | None) -> Verdict:
        """By judgements that were there from the beginning, or were named only now."""
        if self._evaluator is None:
            return Verdict()
        try:
            is_summed = sums_judged_by == self._judges_by
            return self._evaluator.verdict(
                sums if is_summed else self._plan.quality_of_output(self._evaluator)
            )
        except InvalidRequest as error:  # the run is done, whatever can be said of it
            return Verdict(notes=[error.message])


def wait_for_workers(client: RerankClient, model: str | None = None) -> list[WorkerStatus]:
    """The workers that take bulk work, of this model where one is named, and have it loaded; loading is waited for."""
    budget = RetryBudget(client.settings.bulk_patience_seconds)
    while True:
        try:
            workers = [worker for worker in bulk_workers(client) if worker.may_serve(model)]
        except BrokerUnavailable as error:
            time.sleep(budget.failed(error))
            continue
        loaded = [worker for worker in workers if worker.model]
        if loaded:
            return loaded
        if workers:
            budget.succeeded()
        time.sleep(LOADING_PERIOD_SECONDS if workers else budget.failed(nobody_there(0, model)))


def model_of(workers: list[WorkerStatus]) -> ModelInfo:
    """The one model that the workers serve; several are refused."""
    served = sorted({(worker.model, worker.revision) for worker in workers})
    if len(served) > 1:
        names = ", ".join(f"{name}@{revision}" for name, revision in served)
        raise InvalidSettings(
            f"the workers serve different models, whose scores do not compare; name one of them as the model: {names}"
        )
    name, revision = served[0]
    return ModelInfo(name=name, revision=revision)


def _for_model(model: ModelInfo, entry: Entry) -> Entry:
    """The entry; a row that names another model than the run's is refused: their scores do not compare."""
    asked = None if entry.request is None else entry.request.model
    if asked is None or asked in names_of(model.name, model.revision):
        return entry
    told = (
        f"model: the run is scored by {model.name}@{model.revision}, got another; run such rows by themselves"
    )
    return Entry(entry.position, entry.row, None, InvalidRequest(told, {"field": "model"}))


def _outcomes(answered_packs: Iterator[AnsweredPack], scribe: Scribe, window: Window) -> Iterator[Outcome]:
    """The packs as lines: their texts leave memory, their lines enter it."""
    for one in answered_packs:
        outcome = scribe.outcome(one)
        window.release(one.pack.size_bytes)
        window.take(outcome.size_bytes)
        yield outcome


def _of_one_model(
    answered_packs: Iterator[AnsweredPack], sender: PackSender, model: ModelInfo
) -> Iterator[AnsweredPack]:
    """The packs, as long as they were scored by this model; the answer of another is thrown away."""
    for one in answered_packs:
        scored_by = [answer.model for answer in one.answers if isinstance(answer, Ranking)]
        other = next((other for other in scored_by if other != model), None)
        if other is not None:
            sender.clear(one.job_ids)
            raise InvalidSettings(
                f"a worker answered with {other.name}@{other.revision} in a run that was begun with "
                f"{model.name}@{model.revision}; what is done is safe: stop that worker, then run the command again"
            )
        yield one


def _evaluator(task: Task) -> Evaluator | None:
    is_wanted = task.qrels is not None or can_evaluate()
    return Evaluator(task.qrels, task.relevant_from, task.names.get("relevant")) if is_wanted else None
