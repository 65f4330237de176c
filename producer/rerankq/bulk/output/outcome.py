"""What an answered pack leaves behind: lines for the output, lines for the errors file, sums."""

from collections.abc import Sequence
from dataclasses import dataclass

from rerankq.bulk.evaluate import Evaluator, as_judged
from rerankq.bulk.formats import Writer
from rerankq.bulk.formats.json_lines import failed_line, line_of, name_of
from rerankq.bulk.output.tally import SHOWN_REASONS, Quality, Tally
from rerankq.bulk.rows import Entry, place_of
from rerankq.bulk.sending.flight import Answer, Landed
from rerankq.contract.errors import InvalidRequest, RerankError, to_wire
from rerankq.contract.messages import Ranking


@dataclass(frozen=True, slots=True)
class Outcome:
    """A stretch of the input, answered."""

    start: int
    stop: int
    lines: bytes
    error_lines: bytes
    tally: Tally
    job_ids: list[str]

    @property
    def size_bytes(self) -> int:
        """What it holds in memory."""
        return len(self.lines) + len(self.error_lines)


class Scribe:
    """Writes answered packs down, for one run."""

    def __init__(
        self, writer: Writer, evaluator: Evaluator | None, *, errors_among_answers: bool = False
    ) -> None:
        """`errors_among_answers`: there is one stream only, so a failed row is a line `{"id", "error"}` in it."""
        self._writer = writer
        self._evaluator = evaluator
        self._errors_among_answers = errors_among_answers

    def outcome(self, landed: Landed) -> Outcome:
        """The lines and sums of one pack."""
        pairs = list(zip(landed.pack.entries, landed.answers, strict=True))
        written = [(entry, answer, *self._written(entry, answer)) for entry, answer in pairs]
        ranked = [
            (entry, answer)
            for entry, answer, _, error in written
            if error is None and isinstance(answer, Ranking)
        ]
        failed = [(entry, error) for entry, _, _, error in written if error is not None]
        among = self._errors_among_answers
        return Outcome(
            start=landed.pack.start,
            stop=landed.pack.stop,
            lines=b"".join(lines for _, _, lines, _ in written),
            error_lines=b"" if among else b"".join(error_line(entry, error) for entry, error in failed),
            tally=self._tally(ranked, failed),
            job_ids=landed.job_ids,
        )

    def _written(self, entry: Entry, answer: Answer) -> tuple[bytes, RerankError | None]:
        """The lines of a row, and its error if it has failed, be it that its format has no form for it."""
        try:
            if isinstance(answer, Ranking):
                return self._writer.lines(entry, answer), None
            error = answer
        except InvalidRequest as refused:
            error = refused
        lines = line_of({**name_of(entry), "error": to_wire(error)}) if self._errors_among_answers else b""
        return lines, error

    def _tally(
        self, ranked: Sequence[tuple[Entry, Ranking]], failed: Sequence[tuple[Entry, RerankError]]
    ) -> Tally:
        usages = [ranking.usage for _, ranking in ranked]
        failures: dict[str, int] = {}
        for _, error in failed:
            name = type(error).__name__
            failures[name] = failures.get(name, 0) + 1
        return Tally(
            rows=len(ranked) + sum(failures.values()),
            failed=sum(failures.values()),
            pairs=sum(usage.pairs for usage in usages),
            tokens=sum(usage.tokens for usage in usages),
            cached_pairs=sum(usage.cached_pairs for usage in usages),
            truncated_documents=sum(usage.truncated_documents for usage in usages),
            failures=failures,
            reasons=[f"row {place_of(entry)}: {error.message}" for entry, error in failed[:SHOWN_REASONS]],
            quality=self._quality(ranked, failed),
        )

    def _quality(
        self, ranked: Sequence[tuple[Entry, Ranking]], failed: Sequence[tuple[Entry, RerankError]]
    ) -> Quality:
        if self._evaluator is None:
            return Quality()
        judged = [as_judged(entry, answer) for entry, answer in ranked]
        return self._evaluator.quality([*judged, *(as_judged(entry, None) for entry, _ in failed)])


def error_line(entry: Entry, error: RerankError) -> bytes:
    """The row as it came, with the reason beside it: mended or not, it can be run again."""
    reason = {
        "row": place_of(entry),
        **entry.row.place,
        "type": type(error).__name__,
        "message": error.message,
    }
    return failed_line(entry.row, reason)
