"""CSV and TSV in long form: one line per document, equal neighbours in the query id make one request.

CSV is read strictly, quotes and all; in TSV, as this field writes it, a quote is a character like any other.
"""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

from rerankq.bulk.formats.fields import grades, judgements_left
from rerankq.bulk.formats.inputs import Given
from rerankq.bulk.formats.interface import Reader, Writer
from rerankq.bulk.formats.json_lines import line_of
from rerankq.bulk.formats.long_form import Line, LongForm, beside_document
from rerankq.bulk.formats.names import FieldNames, Layout
from rerankq.bulk.rows import Entry, InputRow, Ranked, beside, by_place, document_key, name_of_row, text_at
from rerankq.contract import wire
from rerankq.contract.errors import InvalidRequest
from rerankq.contract.messages import RankedDocument, Ranking

LONGEST_FIELD = 20_000_000  # characters; an unclosed quote must not read a whole file into memory
EXTRA_COLUMN = "extra"  # what a row that is no table carries besides its request, as JSON
_QUERY_ID, _DOCUMENT_ID, _RANK = "query_id", "doc_id", "rank"
_OUR_COLUMNS = (_QUERY_ID, _DOCUMENT_ID, _RANK, "relevance_score", "logit")


RANKED_NAMES = FieldNames(id=(_QUERY_ID,), query=(_RANK,), text=(_DOCUMENT_ID,))
"""What an output calls what its lines are grouped by."""


class TableReader(Reader):
    """`query_id, query, doc_id, text` and further columns, which are carried through."""

    def __init__(self, given: Given, *, delimiter: str, is_quoted: bool) -> None:
        super().__init__(given)
        self._columns = given.task.columns
        self._delimiter = given.task.delimiter or delimiter
        self._is_quoted = is_quoted if given.task.is_quoted is None else given.task.is_quoted

    def records(self) -> Iterator[list[Line]]:
        lines = self._lines()
        for first in lines:  # the form is known with it
            yield from self._form.grouped(chain([first], lines))

    def _lines(self) -> Iterator[dict[str, str]]:
        """The lines of all files, each with a header of its own: a query may begin in one and end in the next."""
        first: Sequence[str] | None = None
        for part in self._input.in_turn():
            with part.stream() as stream, io.TextIOWrapper(stream, encoding="utf-8", newline="") as text:
                parsed = self._parsed(text)
                columns = self._columns or next(parsed, (1, []))[1]
                if first is None:
                    first, self._form = columns, self._form_of(columns)
                if sorted(columns) != sorted(first):
                    raise self._broken(1, f"expected the columns of the first file, {', '.join(first)}")
                yield from self._lines_below(columns, parsed)

    def _lines_below(
        self, columns: Sequence[str], parsed: Iterator[tuple[int, list[str]]]
    ) -> Iterator[dict[str, str]]:
        for number, values in parsed:
            if len(values) != len(columns):
                raise self._broken(number, f"expected {len(columns)} columns, got {len(values)}")
            yield dict(zip(columns, values, strict=True))

    def _parsed(self, text: Any) -> Iterator[tuple[int, list[str]]]:
        """The values of each line that is not blank, and the number of the line that they begin in."""
        csv.field_size_limit(LONGEST_FIELD)
        quoting: dict[str, Any] = {"strict": True} if self._is_quoted else {"quoting": csv.QUOTE_NONE}
        parser: Any = csv.reader(text, delimiter=self._delimiter, **quoting)
        while True:
            number = parser.line_num + 1
            try:
                values = next(parser)
            except StopIteration:
                return
            except csv.Error as error:
                raise self._broken(number, str(error)) from error
            if values:
                yield number, values

    def _broken(self, number: int, reason: str) -> InvalidRequest:
        way_out = "--no-quote reads quotes as text" if self._is_quoted else "--quote reads quoted fields"
        return InvalidRequest(
            f"line {number} of {self._input.at.path}: {reason}; {way_out}, --delimiter names another separator",
            {"field": "input", "line": number},
        )

    def row(self, record: list[Line]) -> InputRow:
        return self._form.row(record)

    def further_columns(self) -> list[str]:
        first_line = self._input.first_line()
        if first_line is None and not self._columns:
            return []  # whoever reads on will say why there is none
        head = io.StringIO((first_line or b"").decode(errors="replace"), newline="")
        return self._form_of(self._columns or next(self._parsed(head), (1, []))[1]).further_columns()

    def _form_of(self, columns: Sequence[str]) -> LongForm:
        doubled = next((place for place, name in enumerate(columns) if name in columns[:place]), None)
        if doubled is not None:  # told by its place: what is no header is text of a row
            raise self._broken(1, f"column {doubled + 1} is called like one before it")
        return LongForm(self._names, columns)


class TableWriter(Writer):
    """`query_id, doc_id, rank, relevance_score`, `logit` and what the input's lines carried; best first."""

    def __init__(self, layout: Layout, *, delimiter: str, is_quoted: bool) -> None:
        super().__init__(layout)
        self._delimiter = layout.task.delimiter or delimiter
        self._is_quoted = is_quoted if layout.task.is_quoted is None else layout.task.is_quoted
        self._columns = columns_of(None, layout)
        self._shown = [self._columns.index(name) for name in layout.shown.among(self._columns)]

    def header(self) -> bytes:
        return self._text([self._columns])

    def lines(self, entry: Entry, ranking: Ranking) -> bytes:
        ranked = enumerate(ranking.results, start=1)
        return self._text([self._line(entry, rank, result) for rank, result in ranked])

    def _line(self, entry: Entry, rank: int, result: RankedDocument) -> list[Any]:
        line: list[Any] = [name_of_row(entry), document_key(result.id, result.index)]
        line += [rank, result.relevance_score, result.logit, *self._carried(entry, result)]
        return [*line, text_at(entry, result.index)] if self._layout.task.with_documents else line

    def _carried(self, entry: Entry, result: RankedDocument) -> list[Any]:
        extra, further = entry.row.extra, self._layout.further_columns
        if further is None:
            return [line_of(extra).decode().rstrip() if extra else None]
        line = beside_document(extra, result.index)
        return [line.get(name) for name in further]

    def _text(self, lines: list[list[Any]]) -> bytes:
        text = io.StringIO(newline="")
        quoting: dict[str, Any] = {} if self._is_quoted else {"quoting": csv.QUOTE_NONE, "quotechar": None}
        try:
            shown = ([line[index] for index in self._shown] for line in lines)
            csv.writer(text, delimiter=self._delimiter, lineterminator="\n", **quoting).writerows(shown)
        except csv.Error as error:  # a tab or a line's end within a field
            raise InvalidRequest(f"cannot be written without quotes: {error}", {"field": "output"}) from error
        return text.getvalue().encode()


def columns_of(_row: InputRow | None, layout: Layout) -> list[str]:
    """What a table can show."""
    text = ("text",) if layout.task.with_documents else ()
    ours = (*_OUR_COLUMNS, *text)
    further = (EXTRA_COLUMN,) if layout.further_columns is None else layout.further_columns
    return [*_OUR_COLUMNS, *(beside(name, ours) for name in further), *text]


def ranked_table(given: Given, *, delimiter: str, is_quoted: bool) -> Iterator[Ranked]:
    """The rankings of a table as `TableWriter` writes it, whatever stands between its columns."""
    _, is_ours, rest = (given.input.first_line() or b"").decode(errors="replace").partition(_QUERY_ID)
    task = replace(given.task, delimiter=rest[:1] if is_ours else None, columns=None)
    written = replace(given, names=RANKED_NAMES, task=task)
    return ranked_lines(TableReader(written, delimiter=delimiter, is_quoted=is_quoted).records(), given)


def ranked_lines(queries: Iterable[Sequence[Line]], given: Given) -> Iterator[Ranked]:
    """The rankings of such lines, a query's together."""
    for lines in queries:
        query = str(lines[0][_QUERY_ID])
        if [str(line[_RANK]) for line in lines] != [str(rank) for rank in range(1, len(lines) + 1)]:
            raise InvalidRequest(
                f"{given.input.path}: expected the lines of query {query} by rank, from 1 on; sort them so",
                {"field": "output"},
            )
        ranked = by_place([str(line[_DOCUMENT_ID]) for line in lines])
        yield Ranked(query, ranked, None, *_judgements(lines, given.names))


def _judgements(lines: Sequence[Line], names: FieldNames) -> tuple[dict[str, float] | None, bool]:
    """What the lines carry as a column of their own, or what the row carried that they were made of."""
    column = names.relevant[0]
    if column in lines[0]:
        given = ((str(line[_DOCUMENT_ID]), line[column]) for line in lines)
        judged = grades({name: None if grade == "" else grade for name, grade in given})
        if judged is None:
            judged = grades(
                lines[0][column]
            )  # those of the row, as a long form of columns has them in each line
        return judged, judged is None
    try:
        extra = wire.decode(lines[0].get(EXTRA_COLUMN) or b"")
    except (ValueError, TypeError):  # none, or a column of the caller's own
        return None, False
    return judgements_left(extra, names) if isinstance(extra, dict) else (None, False)
