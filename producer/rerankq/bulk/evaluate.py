"""nDCG@10 and MRR@10 before and after, by `ir_measures` (extra `[bulk]`): the numbers that trec_eval gives.

Before is the order of the candidates in the input; after is the ranking. Rows without a judgement do not count.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

from rerankq.bulk.formats import Format, errors_reader, input_format, known_format
from rerankq.bulk.formats.fields import HIGHEST_GRADE
from rerankq.bulk.formats.inputs import READ_ERRORS, Given, Input, unreadable
from rerankq.bulk.formats.names import USUAL_NAMES
from rerankq.bulk.output import sidecar as state
from rerankq.bulk.output.totals import Quality
from rerankq.bulk.rows import Entry, Ranked, by_place, document_key, may_leave_out, name_of_row
from rerankq.bulk.task import Task
from rerankq.contract import wire
from rerankq.contract.errors import InvalidRequest, InvalidSettings, RerankError
from rerankq.contract.messages import Ranking

Qrels = Mapping[str, Mapping[str, float]]

ROWS_AT_A_TIME = 1_000

_BEIR_COLUMNS = 3  # query-id corpus-id score, below a header
_TREC_COLUMNS = 4  # qid 0 docid grade


@dataclass(frozen=True, slots=True)
class Verdict:
    """What judgements say of an output."""

    judgements: str | None = None
    """The file that was named for them, or the field."""
    relevant_from: int = 1
    judged_queries: int = 0
    missing_queries: int = 0
    """Judged, but without a ranking: failed, or never asked."""
    quality: dict[str, float] = field(default_factory=dict[str, float])
    """nDCG@10 and MRR@10, before (where the order of the input is known) and after."""
    quality_with_missing: dict[str, float] = field(default_factory=dict[str, float])
    """The same after, each missing query counted as 0, as `trec_eval -c` has it."""
    notes: list[str] = field(default_factory=list[str])
    """What keeps the numbers from saying more, in words."""


class Evaluator:
    """Judges rankings by what a qrels file says is relevant, or without one by what the rows say."""

    def __init__(
        self, qrels_path: str | None = None, relevant_from: int = 1, relevant_field: str | None = None
    ) -> None:
        """`relevant_from` is the lowest grade that MRR counts as relevant; nDCG weighs all of them."""
        if not can_evaluate():
            raise InvalidSettings("evaluation needs ir_measures; `pip install 'rerankq[bulk]'` brings it")
        self._asked, self._relevant_from = qrels_path or relevant_field, relevant_from
        self._field = relevant_field or USUAL_NAMES.relevant[0]
        self._qrels = None if qrels_path is None else read_qrels(qrels_path)
        self._library: Any = import_module("ir_measures")
        names = ("nDCG@10", f"RR(rel={relevant_from})@10")
        self._measures = [self._library.parse_measure(name) for name in names]

    @property
    def identity(self) -> str:
        """Tells sums that were made by other judgements; empty for those of the rows themselves."""
        if self._qrels is None and self._relevant_from == 1:
            return ""
        return hashlib.blake2b(wire.encode([self._qrels, self._relevant_from]), digest_size=16).hexdigest()

    def quality(self, rows: Iterable[Ranked]) -> Quality:
        """The sums over these rows, the judged ones of them."""
        sums = Quality()
        qrels, before, after = dict[str, Any](), dict[str, Any](), dict[str, Any]()
        for number, row in enumerate(rows):
            grades = self._grades(row)
            if row.after is None:
                sums.failed += bool(grades)
                continue
            sums.rows += 1
            sums.unread += self._qrels is None and (row.is_unread or not _are_whole(row.relevant))
            if not grades:
                continue
            sums.queries += 1
            sums.matched += not grades.keys().isdisjoint(row.after)
            sums.unordered += row.before is None
            key = str(number)
            qrels[key], after[key] = grades, row.after
            if row.before is not None:
                before[key] = row.before
        sums.ndcg_before, sums.mrr_before = self._sums(qrels, before)
        sums.ndcg_after, sums.mrr_after = self._sums(qrels, after)
        return sums

    def quality_of_file(
        self, given: Given, written_as: Format, read_as: Format | None, *, is_cut: bool
    ) -> Quality:
        """The sums over an output, and the judged ones among the rows that failed.

        Args:
            read_as: the format of the input that it was made of, where that is known.
            is_cut: it has the best of the candidates only, so that nothing tells how they came.
        """
        rows = written_as.ranked(given)
        if is_cut:
            rows = (replace(row, before=None) for row in rows)
        quality = Quality()
        try:
            while chunk := list(islice(rows, ROWS_AT_A_TIME)):
                quality.add(self.quality(chunk))
            quality.add(self.quality(_failed(given, read_as)))
        except RerankError:
            raise
        except READ_ERRORS as error:
            raise unreadable(given.input.at.path, error) from error
        return quality

    def verdict(self, sums: Quality) -> Verdict:
        """What the sums come to."""
        of_all = len(self._qrels) if self._qrels is not None else sums.queries + sums.failed
        missing = max(of_all - sums.queries, 0)
        counted = sums.queries + missing
        after = {"ndcg_after": sums.ndcg_after, "mrr_after": sums.mrr_after}
        return Verdict(
            judgements=self._asked,
            relevant_from=self._relevant_from,
            judged_queries=sums.queries,
            missing_queries=missing,
            quality=sums.means(),
            quality_with_missing={name: total / counted for name, total in after.items()} if counted else {},
            notes=list(self._notes(sums, missing)),
        )

    def _notes(self, sums: Quality, missing: int) -> Iterator[str]:
        if self._asked is not None and not sums.queries + sums.failed:
            yield f"none of the {sums.rows:,} jobs, by {self._asked}"
        elif sums.queries and not sums.matched:
            yield "none of the judged documents is in a ranking, by its id"
        if sums.queries and missing:
            failed = f", {sums.failed:,} of them failed" if sums.failed else ""
            yield f"{missing:,} judged jobs without a ranking{failed}; they are not in the means"
        if sums.unread:
            expected = f"`{self._field}` as {{document id: grade}} or as ids, a grade being a whole number"
            yield f"{sums.unread:,} jobs carry judgements that cannot be read: expected {expected}"

    def _grades(self, row: Ranked) -> dict[str, int]:
        given = row.relevant if self._qrels is None else self._qrels.get(row.query)
        if not _are_whole(given):
            return {}  # trec_eval knows no others, and 0.1 is not 0
        return {name: round(grade) for name, grade in (given or {}).items() if abs(grade) <= HIGHEST_GRADE}

    def _sums(self, qrels: dict[str, Any], run: dict[str, Any]) -> tuple[float, float]:
        sums = dict.fromkeys(self._measures, 0.0)
        if run:
            for metric in self._library.iter_calc(self._measures, qrels, run):
                sums[metric.measure] += metric.value
        return sums[self._measures[0]], sums[self._measures[1]]


def evaluate(
    output: str,
    qrels: str | None = None,
    *,
    relevant_from: int = 1,
    relevant_field: str | None = None,
    written_as: str | None = None,
) -> Verdict:
    """What judgements say of an output that is there, begun by whatever run.

    Raises:
        InvalidRequest: it cannot be read as an output of ours, or nothing in it is judged.
        InvalidSettings: `ir_measures` is not installed.
    """
    evaluator = Evaluator(qrels, relevant_from, relevant_field)
    sidecar = state.load(Path(output))
    begun = {} if sidecar is None else sidecar.settings
    input_ = Input(output)
    task = Task(output, output, is_quoted=begun.get("quotes"))
    given = Given(input_, USUAL_NAMES.renamed({"relevant": relevant_field}), task)
    format_ = input_format(input_, written_as)
    read_as = None if sidecar is None else known_format(begun["format"])
    is_cut = may_leave_out(begun)
    verdict = evaluator.verdict(evaluator.quality_of_file(given, format_, read_as, is_cut=is_cut))
    if verdict.judged_queries:
        return verdict
    reasons = verdict.notes or ["none of its rankings carries judgements; name them with --qrels FILE"]
    raise InvalidRequest(f"{output}: {'; '.join(reasons)}", {"field": "qrels"})


def _failed(given: Given, read_as: Format | None) -> Iterator[Ranked]:
    """The rows in the errors file beside an output."""
    if read_as is None or not (path := state.errors_path(Path(given.input.path))).exists():
        return
    reader = errors_reader(read_as, replace(given, input=Input(str(path))))
    for row in map(reader.row, reader.records()):
        yield Ranked(str(row.first_position if row.id is None else row.id), None, relevant=row.relevant)


def as_judged(entry: Entry, answer: Ranking | RerankError) -> Ranked:
    """A row of a run that goes on; without a ranking it has failed."""
    ids = entry.request.ids if entry.request is not None else []
    is_ranked = isinstance(answer, Ranking)
    ranked = [document_key(result.id, result.index) for result in answer] if is_ranked else None
    return Ranked(
        name_of_row(entry),
        None if ranked is None else by_place(ranked),
        by_place([document_key(name, index) for index, name in enumerate(ids)]),
        entry.row.relevant,
        is_unread=entry.row.relevant is None and bool(entry.row.extra.get(USUAL_NAMES.relevant[0])),
    )


def can_evaluate() -> bool:
    """Whether the library is installed."""
    return find_spec("ir_measures") is not None


def read_qrels(path: str) -> dict[str, dict[str, float]]:
    """Grades by query and document, from BEIR's TSV or TREC's four columns; a line that is neither is refused."""
    qrels: dict[str, dict[str, float]] = {}
    input_ = Input(path)
    for line in input_.lines():
        text = line.decode(errors="replace")
        columns = text.split("\t")
        if len(columns) not in (_BEIR_COLUMNS, _TREC_COLUMNS):
            columns = text.split()
        if len(columns) not in (_BEIR_COLUMNS, _TREC_COLUMNS):
            raise InvalidRequest(
                f"line {input_.line} of {input_.at.path}: expected `query-id corpus-id score` or "
                f"`qid 0 docid grade`, got {len(columns)} columns",
                {"field": "qrels", "line": input_.line},
            )
        grade = _grade(columns[-1])
        if grade is not None:
            qrels.setdefault(columns[0], {})[columns[-2]] = grade
        elif input_.line > 1 or any(map(str.isdigit, columns[-1])):  # else a header
            raise InvalidRequest(
                f"line {input_.line} of {input_.at.path}: expected a whole number up to {HIGHEST_GRADE:,} as grade",
                {"field": "qrels", "line": input_.line},
            )
    return qrels


def _grade(text: str) -> float | None:
    try:
        grade = float(text)
    except ValueError:
        return None
    return grade if abs(grade) <= HIGHEST_GRADE and grade.is_integer() else None


def _are_whole(grades: Mapping[str, float] | None) -> bool:
    return not any(abs(grade) <= HIGHEST_GRADE and grade % 1 for grade in (grades or {}).values())
