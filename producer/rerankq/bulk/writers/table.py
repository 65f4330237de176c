"""CSV and TSV in long form: `query_id, doc_id, rank, relevance_score` and what the input's lines carried."""

import csv
import io
from collections.abc import Sequence
from typing import Any

from rerankq.bulk.readers.table import COLUMNS_KEY
from rerankq.bulk.rows import Entry, document_key
from rerankq.bulk.writers.json_lines import place_of, text_at
from rerankq.contract.messages import RankedDocument, Ranking

_OWN_COLUMNS = ("query_id", "doc_id", "rank", "relevance_score", "logit")


class LongTable:
    """One line per document, best first."""

    def __init__(
        self, delimiter: str, further_columns: Sequence[str] = (), *, with_documents: bool = False
    ) -> None:
        self._delimiter = delimiter
        self._further = tuple(name for name in further_columns if name not in _OWN_COLUMNS)
        self._with_documents = with_documents

    def header(self) -> bytes:
        """The names of the columns."""
        text = ("text",) if self._with_documents else ()
        return self._text([[*_OWN_COLUMNS, *self._further, *text]])

    def lines(self, entry: Entry, ranking: Ranking) -> bytes:
        """The row's documents, best first."""
        ranked = enumerate(ranking.results, start=1)
        return self._text([self._line(entry, rank, result) for rank, result in ranked])

    def _line(self, entry: Entry, rank: int, result: RankedDocument) -> list[Any]:
        query_id = place_of(entry) if entry.row.id is None else entry.row.id
        further = entry.row.extra.get(COLUMNS_KEY, {})
        carried = further[result.index] if further else {}
        line = [query_id, document_key(result.id, result.index), rank, result.relevance_score, result.logit]
        line += [carried.get(name) for name in self._further]
        return [*line, text_at(entry, result.index)] if self._with_documents else line

    def _text(self, lines: list[list[Any]]) -> bytes:
        text = io.StringIO(newline="")
        csv.writer(text, delimiter=self._delimiter, lineterminator="\n").writerows(lines)
        return text.getvalue().encode()
