"""One line per document, of whatever file: equal neighbours in the query id make one request. Opens nothing."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from rerankq.bulk.formats.names import FieldNames
from rerankq.bulk.formats.on_disk import SeenIds
from rerankq.bulk.rows import Row, broken_row
from rerankq.contract.errors import InvalidRequest

COLUMNS_KEY = "columns"  # where a row keeps what its documents' lines carry besides text and id

Line = Mapping[str, Any]


class LongForm:
    """`query_id, query, doc_id, text` and further columns, which are carried through."""

    def __init__(self, names: FieldNames) -> None:
        self._names = names
        self._own = (names.id, names.query, names.document_id, names.text)

    def grouped(self, lines: Iterable[Line]) -> Iterator[list[Line]]:
        """The lines of one query at a time.

        Raises:
            InvalidRequest: a query's lines are not neighbours.
        """
        with SeenIds() as seen:
            for query_id, group in groupby(lines, key=lambda line: line[self._names.id]):
                if not _is_missing(query_id):
                    seen.refuse_repeated(str(query_id), "sort the file by its query id column")
                yield list(group)

    def row(self, lines: Sequence[Line]) -> Row:
        """The request that these lines make together."""
        names, first = self._names, lines[0]
        fields: dict[str, Any] = {
            "query": first[names.query],
            "documents": [self._document(line) for line in lines],
            "id": first[names.id],
        }
        further = [self._further(line) for line in lines]
        extra = {COLUMNS_KEY: further} if any(further) else {}
        if _is_missing(fields["id"]):
            return broken_row({**fields, **extra}, f"{names.id}: expected an id, got none")
        queries = list(dict.fromkeys(line[names.query] for line in lines))
        if len(queries) > 1:
            reason = f"lines of {fields['id']} differ in {names.query}, expected one query"
            return broken_row({**fields, "query": queries, **extra}, reason)
        texts = [fields["query"], *(document["text"] for document in fields["documents"])]
        size = sum(len(text) for text in texts if isinstance(text, str))
        return Row(source={**fields, **extra}, extra=extra, size_bytes=size, **fields)

    def further_columns(self, columns: Iterable[str]) -> list[str]:
        """Those that are carried through."""
        return [name for name in columns if name not in self._own]

    def require(self, columns: Sequence[str]) -> None:
        """
        Raises:
            InvalidRequest: a column without which there is no request is missing.
        """
        for name in (self._names.id, self._names.query, self._names.text):
            if name not in columns:
                raise InvalidRequest(
                    f"expected a column {name}, got {', '.join(columns)}; --id-field, --query-field "
                    "and --text-field name them",
                    {"field": name},
                )

    def _document(self, line: Line) -> dict[str, Any]:
        document_id = line.get(self._names.document_id)
        text = line[self._names.text]
        return {"text": text} if document_id is None else {"text": text, "id": str(document_id)}

    def _further(self, line: Line) -> dict[str, Any]:
        return {name: value for name, value in line.items() if name not in self._own}


def _is_missing(query_id: Any) -> bool:
    return query_id is None or query_id == ""
