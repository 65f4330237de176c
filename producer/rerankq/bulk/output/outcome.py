"""What an answered pack leaves behind: lines for the output, lines for the errors file, sums."""

from dataclasses import dataclass

from rerankq.bulk.evaluate import Evaluator, as_judged
from rerankq.bulk.formats import Writer
from rerankq.bulk.formats.json_lines import failed_line, line_of, name_of
from rerankq.bulk.output.totals import Totals
from rerankq.bulk.rows import Entry, Ranked, place_of
from rerankq.bulk.sending.pack_sender import Answer, AnsweredPack
from rerankq.contract.errors import InvalidRequest, RerankError, to_wire
from rerankq.contract.messages import Ranking


@dataclass(frozen=True, slots=True)
class Outcome:
    """A stretch of the input, answered."""

    start: int
    stop: int
    lines: bytes
    error_lines: bytes
    tally: Totals
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

    def outcome(self, answered: AnsweredPack) -> Outcome:
        """The lines and sums of one pack."""
        tally, lines, error_lines, judged = Totals(), list[bytes](), list[bytes](), list[Ranked]()
        for entry, answer in answered.pairs:
            line, ended_in = self._written(entry, answer)
            lines.append(line)
            tally.count(place_of(entry), ended_in)
            judged.append(as_judged(entry, ended_in))
            if isinstance(ended_in, RerankError) and not self._errors_among_answers:
                error_lines.append(error_line(entry, ended_in))
        if self._evaluator is not None:
            tally.quality = self._evaluator.quality(judged)
        pack = answered.pack
        return Outcome(pack.start, pack.stop, b"".join(lines), b"".join(error_lines), tally, answered.job_ids)

    def _written(self, entry: Entry, answer: Answer) -> tuple[bytes, Answer]:
        """The lines of a row, and what it ended in: an error also where its format has no form for the ranking."""
        if isinstance(answer, Ranking):
            try:
                return self._writer.lines(entry, answer), answer
            except InvalidRequest as refused:
                answer = refused
        is_line = self._errors_among_answers
        return line_of({**name_of(entry), "error": to_wire(answer)}) if is_line else b"", answer


def error_line(entry: Entry, error: RerankError) -> bytes:
    """The row as it came, with the reason beside it: mended or not, it can be run again."""
    reason = {
        "row": place_of(entry),
        **entry.row.place,
        "type": type(error).__name__,
        "message": error.message,
    }
    return failed_line(entry.row, reason)
