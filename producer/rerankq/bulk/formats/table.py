"""CSV and TSV in long form: one line per document, equal neighbours in the query id make one request."""

import csv
import io
import sys
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from rerankq.bulk.formats.names import Layout
from rerankq.bulk.formats.on_disk import SeenIds
from rerankq.bulk.formats.source import Given, Source
from rerankq.bulk.rows import Entry, Row, document_key, place_of, text_at
from rerankq.contract.errors import InvalidRequest
from rerankq.contract.messages import RankedDocument, Ranking

COLUMNS_KEY = "columns"  # where a row keeps what its documents' lines carry besides text and id
_OUR_COLUMNS = ("query_id", "doc_id", "rank", "relevance_score", "logit")

Lines = list[dict[str, str]]


class TableReader:
    """`query_id, query, doc_id, text` and further columns, which are carried through."""

    def __init__(self, given: Given, *, delimiter: str) -> None:
        self._source = given.source
        self._names = given.names
        self._delimiter = delimiter

    def records(self) -> Iterator[Lines]:
        """The lines of one query at a time.

        Raises:
            InvalidRequest: a column is missing, or a query's lines are not neighbours.
        """
        csv.field_size_limit(sys.maxsize)
        with self._source.stream() as stream, SeenIds() as seen:
            text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
            rows: Any = csv.DictReader(text, delimiter=self._delimiter)
            self._require_columns(rows.fieldnames or [])
            for query_id, lines in groupby(rows, key=lambda line: line[self._names.id]):
                seen.refuse_repeated(query_id, "sort the file by its query id column")
                yield list(lines)

    def row(self, record: Lines) -> Row:
        """The request that these lines make together."""
        names, first = self._names, record[0]
        documents = [self._document(line) for line in record]
        fields: dict[str, Any] = {
            "query": first[names.query],
            "documents": documents,
            "id": first[names.id],
        }
        further = [self._further(line) for line in record]
        extra = {COLUMNS_KEY: further} if any(further) else {}
        size = len(first[names.query] or "") + sum(len(document["text"] or "") for document in documents)
        return Row(source={**fields, **extra}, extra=extra, size_bytes=size, **fields)

    def further_columns(self) -> list[str]:
        """The columns that are carried through."""
        line = (self._source.first_line() or b"").decode("utf-8-sig")
        columns = next(csv.reader([line], delimiter=self._delimiter), [])
        return [name for name in columns if name not in self._own]

    @property
    def _own(self) -> tuple[str, ...]:
        names = self._names
        return (names.id, names.query, names.document_id, names.text)

    def sources(self) -> list[Source]:
        """The one file."""
        return [self._source]

    def fraction_read(self) -> float | None:
        """By bytes."""
        return self._source.fraction_read()

    def _document(self, line: dict[str, str]) -> dict[str, Any]:
        document_id = line.get(self._names.document_id)
        text = line[self._names.text]
        return {"text": text} if document_id is None else {"text": text, "id": document_id}

    def _further(self, line: dict[str, str]) -> dict[str, str]:
        return {name: value for name, value in line.items() if name not in self._own}

    def _require_columns(self, columns: Any) -> None:
        for name in (self._names.id, self._names.query, self._names.text):
            if name not in columns:
                raise InvalidRequest(
                    f"expected a column {name}, got {', '.join(map(str, columns))}; --id-field, --query-field "
                    "and --text-field name them",
                    {"field": name},
                )


class TableWriter:
    """`query_id, doc_id, rank, relevance_score`, `logit` and what the input's lines carried; best first."""

    def __init__(self, layout: Layout, *, delimiter: str) -> None:
        self._delimiter = delimiter
        self._further = tuple(name for name in layout.further_columns if name not in _OUR_COLUMNS)
        self._with_documents = layout.with_documents

    def header(self) -> bytes:
        """The names of the columns."""
        text = ("text",) if self._with_documents else ()
        return self._text([[*_OUR_COLUMNS, *self._further, *text]])

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
