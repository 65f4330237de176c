"""nDCG@10 and MRR@10 before and after, by `ir_measures` (extra `[bulk]`): the numbers that trec_eval gives.

Before is the order of the candidates in the input; after is the ranking. Rows without a judgement do not count.
"""

from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from rerankq.bulk.formats.source import Source
from rerankq.bulk.output.tally import Quality
from rerankq.bulk.rows import Entry, document_key
from rerankq.contract.errors import InvalidRequest
from rerankq.contract.messages import Ranking

Qrels = Mapping[str, Mapping[str, float]]

_BEIR_COLUMNS = 3  # query-id corpus-id score, below a header
_TREC_COLUMNS = 4  # qid 0 docid grade


class Evaluator:
    """Judges rankings by what the rows or a qrels file say is relevant."""

    def __init__(self, qrels: Qrels | None = None, relevant_from: int = 1) -> None:
        """`relevant_from`: the lowest grade that MRR counts as relevant; nDCG weighs all of them."""
        self._qrels = qrels or {}
        self._library: Any = import_module("ir_measures")
        names = ("nDCG@10", f"RR(rel={relevant_from})@10")
        self._measures = [self._library.parse_measure(name) for name in names]

    def quality(self, ranked: Iterable[tuple[Entry, Ranking]]) -> Quality:
        """The sums over these rows, the judged ones of them."""
        judged = [(entry, ranking, grades) for entry, ranking in ranked if (grades := self._grades(entry))]
        if not judged:
            return Quality()
        qrels = {str(entry.position): _whole(grades) for entry, _, grades in judged}
        before = {str(entry.position): _run(_names(entry)) for entry, _, _ in judged}
        after = {str(entry.position): _run(_ranked_names(ranking)) for entry, ranking, _ in judged}
        ndcg_before, mrr_before = self._sums(qrels, before)
        ndcg_after, mrr_after = self._sums(qrels, after)
        return Quality(
            queries=len(judged),
            ndcg_before=ndcg_before,
            ndcg_after=ndcg_after,
            mrr_before=mrr_before,
            mrr_after=mrr_after,
        )

    def _grades(self, entry: Entry) -> Mapping[str, float] | None:
        return entry.row.relevant or self._qrels.get(str(entry.row.id))

    def _sums(
        self, qrels: dict[str, dict[str, int]], run: dict[str, dict[str, float]]
    ) -> tuple[float, float]:
        sums = dict.fromkeys(self._measures, 0.0)
        for metric in self._library.iter_calc(self._measures, qrels, run):
            sums[metric.measure] += metric.value
        return sums[self._measures[0]], sums[self._measures[1]]


def can_evaluate() -> bool:
    """Whether the library is installed."""
    return find_spec("ir_measures") is not None


def read_qrels(path: str) -> dict[str, dict[str, float]]:
    """Grades by query and document, from BEIR's TSV or TREC's four columns.

    Raises:
        InvalidRequest: a line is neither.
    """
    qrels: dict[str, dict[str, float]] = {}
    source = Source(path)
    for line in source.lines():
        columns = line.decode(errors="replace").split()
        if source.line == 1 and columns[-1] == "score":
            continue
        if len(columns) not in (_BEIR_COLUMNS, _TREC_COLUMNS):
            raise InvalidRequest(
                f"line {source.line} of {source.at.path}: expected `query-id corpus-id score` or "
                f"`qid 0 docid grade`, got {len(columns)} columns",
                {"field": "qrels", "line": source.line},
            )
        qrels.setdefault(columns[0], {})[columns[-2]] = _grade(columns[-1], source)
    return qrels


def _grade(text: str, source: Source) -> float:
    try:
        return float(text)
    except ValueError:
        raise InvalidRequest(
            f"line {source.line} of {source.at.path}: expected a number as grade", {"line": source.line}
        ) from None


def _whole(grades: Mapping[str, float]) -> dict[str, int]:
    return {name: round(grade) for name, grade in grades.items()}


def _names(entry: Entry) -> list[str]:
    ids = entry.request.ids if entry.request is not None else []
    return [document_key(name, index) for index, name in enumerate(ids)]


def _ranked_names(ranking: Ranking) -> list[str]:
    return [document_key(result.id, result.index) for result in ranking.results]


def _run(names: Sequence[str]) -> dict[str, float]:
    """Places as scores: the measures sort by score, and equal scores by name."""
    return {name: float(len(names) - place) for place, name in enumerate(names)}
