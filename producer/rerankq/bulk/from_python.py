"""From a program: an iterator or a table in, each request with its answer out, or a table of the rankings."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import chain, islice
from typing import Any, NamedTuple, Unpack

from rerankq.bulk.formats.arrow_types import as_arrow, pyarrow
from rerankq.bulk.formats.columns import is_long_form
from rerankq.bulk.formats.gathered import UNFIT
from rerankq.bulk.formats.json_lines import canonical_row
from rerankq.bulk.formats.long_form import LongForm
from rerankq.bulk.formats.names import TABLE_NAMES, USUAL_NAMES, FieldNames
from rerankq.bulk.formats.tables import Table, asked_names, is_table
from rerankq.bulk.rows import Entry, InputRow, beside, broken_row, text_at
from rerankq.bulk.sending.asking import Window, answered, in_order, validated
from rerankq.bulk.sending.pack_sender import Answer, PackSender
from rerankq.bulk.sending.packing import cut
from rerankq.client import RerankClient
from rerankq.contract.errors import InvalidRequest, RerankError
from rerankq.contract.messages import RankedDocument, RequestOptions, RerankRequest
from rerankq.contract.messages import ordered as as_list
from rerankq.packing import PackSize
from rerankq.submission import new_job_id

LINES_AT_A_TIME = 10_000
_OWN_FIELDS = [name for name in RerankRequest.model_fields if name not in ("query", "documents", "lane")]
_OURS = ("index", "rank", "relevance_score", "logit", "text", "error")


class AnsweredRequest(NamedTuple):
    """A request as the caller gave it, in its place, with its answer."""

    given: Any
    entry: Entry
    answer: Answer


def rerank_many(
    requests: Any,
    client: RerankClient,
    *,
    ordered: bool = True,
    pack_size: PackSize | None = None,
    name: str | None = None,
    query_field: str | None = None,
    documents_field: str | None = None,
    id_field: str | None = None,
    text_field: str | None = None,
    document_id_field: str | None = None,
    **options: Unpack[RequestOptions],
) -> Iterator[tuple[Any, Answer]]:
    """Each request with its ranking, or with the error that kept it from one.

    Args:
        requests: an iterable of `RerankRequest`s, `{"query", "documents", …}` mappings or `(query, documents)` pairs,
            documents being a list, an array or a column; or a table of pandas, polars, pyarrow, Hugging Face or
            anything else with `__arrow_c_stream__`, of which each row comes back as a mapping. Mappings or a table with
            a row per document (`query_id, query, doc_id, text`) are grouped as a CSV's lines are, and each query's
            rows come back as a list. Read as needed; what is no field of `RerankRequest` is the caller's own.
        ordered: answers in the order of the requests; False gives each as it comes.
        name: makes the jobs' ids. With the same name and requests an interrupted run finds the answers that were
            given meanwhile, for as long as Redis keeps them.
        query_field, documents_field, id_field, text_field, document_id_field: what mappings and tables call them, as
            the options of `rerankq bulk` say: a path (`passages.text`), or several (`positive,negative`).
        options: fields of `RerankRequest` for all of them, say `top_n=10`.

    Raises:
        BrokerUnavailable, NoWorkers: it was so for longer than `RERANKQ_BULK_PATIENCE_SECONDS`.
        InvalidRequest: the requests are no iterable, or a table's rows of a query are not neighbours.
    """
    names = _names(query_field, documents_field, id_field, text_field, document_id_field)
    requested = Table(requests, names).requests() if is_table(requests) else _requested(requests, names)
    for asked in _asked(requested, client, options, name=name, pack_size=pack_size, is_ordered=ordered):
        yield asked.given, asked.answer


def rerank_table(
    table: Any,
    client: RerankClient,
    *,
    pack_size: PackSize | None = None,
    name: str | None = None,
    query_field: str | None = None,
    documents_field: str | None = None,
    id_field: str | None = None,
    text_field: str | None = None,
    document_id_field: str | None = None,
    **options: Unpack[RequestOptions],
) -> Any:
    """The rankings as a table of the library that `table` is of: of pandas, of polars, else of pyarrow.

    A row per ranked document, best first: the id of its request under the caller's own name and in its type (`row`, its
    place, where there is none), `index` (its place among the request's documents), its id where documents have some,
    `rank`, `relevance_score`, `logit`, with `return_documents=True` its `text`, and `error`. A request that failed is
    one row with nothing but its id and the error. So `table.merge(ranked, on="id")` or `table.join(…)` finds its rows.

    Args:
        table: a row per request or per document, as `rerank_many` takes them.
        name, query_field, …, options: as there.

    Raises:
        BrokerUnavailable, NoWorkers: it was so for longer than `RERANKQ_BULK_PATIENCE_SECONDS`.
        InvalidRequest: it is no table, or not one of requests.
    """
    if not is_table(table):
        raise InvalidRequest(
            f"expected a table, got {type(table).__name__}; rerank_many takes any iterable",
            {"field": "table"},
        )
    given = Table(table, _names(query_field, documents_field, id_field, text_field, document_id_field))
    lines = _RankedTable(given, with_text=bool(options.get("return_documents")))
    for asked in _asked(given.requests(), client, options, name=name, pack_size=pack_size, is_ordered=True):
        lines.add(asked)
    return given.like(lines.table())


def _names(*given: str | None) -> dict[str, str | None]:
    return dict(zip(("query", "documents", "id", "text", "document_id"), given, strict=True))


def _asked(
    requested: Iterable[tuple[Any, InputRow]],
    client: RerankClient,
    options: Mapping[str, Any],
    *,
    name: str | None,
    pack_size: PackSize | None,
    is_ordered: bool,
) -> Iterator[AnsweredRequest]:
    given: dict[int, Any] = {}
    sender, window = PackSender(client, name or new_job_id()), Window()
    try:
        entries = _entries(requested, client, options, given)
        answered_packs = answered(cut(entries, pack_size or PackSize()), sender, window)
        if is_ordered:
            answered_packs = in_order(answered_packs, lambda one: (one.pack.start, one.pack.stop))
        for one in answered_packs:
            window.release(one.pack.size_bytes)
            for entry, answer in one.pairs:
                yield AnsweredRequest(given.pop(entry.position), entry, answer)
            sender.clear(one.job_ids)
    finally:
        sender.close()


def _entries(
    requested: Iterable[tuple[Any, InputRow]],
    client: RerankClient,
    options: Mapping[str, Any],
    given: dict[int, Any],
) -> Iterator[Entry]:
    for position, (request, row) in enumerate(requested):
        given[position] = request
        if isinstance(request, RerankRequest):
            yield Entry(position, row, request.model_copy(update={"lane": "bulk"}))
        else:
            yield validated(position, row, client, options)


def _requested(requests: Any, names: Mapping[str, str | None]) -> Iterator[tuple[Any, InputRow]]:
    """What an iterable gives, and what it says."""
    if not isinstance(requests, Iterable) or isinstance(requests, str | Mapping):
        raise InvalidRequest(
            f"expected an iterable of requests or a table, got {type(requests).__name__}",
            {"field": "requests"},
        )
    all_of_them = iter(requests)
    first = list(islice(all_of_them, 1))
    columns = list(first[0]) if first and isinstance(first[0], Mapping) else []
    if is_long_form(columns, names):
        form = LongForm(asked_names(TABLE_NAMES, names), columns)
        whole = ({**dict.fromkeys(columns), **line} for line in chain(first, all_of_them))
        yield from ((lines, form.row(lines)) for lines in form.grouped(whole))
        return
    fields = asked_names(USUAL_NAMES, names)
    yield from ((request, _row_of(request, fields)) for request in chain(first, all_of_them))


def _row_of(request: Any, names: FieldNames) -> InputRow:
    if isinstance(request, RerankRequest):
        return InputRow(source={}, size_bytes=2 * request.characters)
    if isinstance(request, Mapping):
        of_documents = {path.split(".")[0] for name in names.documents for path in name.split(",")}
        fields = {name: _listed(value) if name in of_documents else value for name, value in request.items()}
        own = {name: fields[name] for name in _OWN_FIELDS if fields.get(name) is not None}
        row = canonical_row(fields, names, 0)
        return replace(row, options=own, size_bytes=_size(row.query, row.documents))
    match request:
        case (query, documents):
            documents = _listed(documents)
            size = _size(query, documents)
            return InputRow(source={}, query=query, documents=documents, size_bytes=size)
        case _:
            return broken_row({}, "request: expected a RerankRequest, a mapping or (query, documents)", 0)


def _listed(value: Any) -> Any:
    """A list of an array, a column, a tuple or an iterator, also within an object; anything else as it is."""
    if isinstance(value, Mapping):
        return {name: _listed(part) for name, part in value.items()}
    if isinstance(value, str):
        return value
    with suppress(ValueError, TypeError):
        return as_list(value)
    return value


def _size(query: Any, documents: Any) -> int:
    listed = documents if isinstance(documents, list) else ()
    return 2 * (len(str(query)) + sum(len(str(document)) for document in listed))


class _RankedTable:
    """Rankings as rows, of which a part at a time is made into columns."""

    def __init__(self, table: Table, *, with_text: bool) -> None:
        arrow, types = pyarrow(), table.types()
        id_name, document_id_name = table.id_columns()
        self._has_id, self._with_text = id_name is not None, with_text
        self._document_id = beside(document_id_name or "doc_id", _OURS)
        self._id = beside(id_name or "row", (*_OURS, self._document_id))
        self._kinds = {
            self._id: types.id if self._has_id else arrow.int64(),
            "index": arrow.int32(),
            **({} if types.document_id is None else {self._document_id: types.document_id}),
            "rank": arrow.int32(),
            "relevance_score": arrow.float32(),
            "logit": arrow.float32(),
            **({"text": arrow.string()} if with_text else {}),
            "error": arrow.string(),
        }
        self._parts: dict[str, list[Any]] = {name: [] for name in self._kinds}
        self._lines: list[dict[str, Any]] = []

    def add(self, asked: AnsweredRequest) -> None:
        """The lines of one request."""
        named = {self._id: asked.entry.row.id if self._has_id else asked.entry.position}
        if isinstance(asked.answer, RerankError):
            self._lines.append({**named, "error": asked.answer.message})
        else:
            self._lines += [
                named | self._line(asked.entry, rank, result)
                for rank, result in enumerate(asked.answer.results, start=1)
            ]
        if len(self._lines) >= LINES_AT_A_TIME:
            self._make_part()

    def table(self) -> Any:
        """All of them."""
        self._make_part()
        columns = {name: _whole(parts) for name, parts in self._parts.items()}
        return pyarrow().table(columns).unify_dictionaries()

    def _line(self, entry: Entry, rank: int, result: RankedDocument) -> dict[str, Any]:
        line: dict[str, Any] = {"index": result.index, self._document_id: result.id, "rank": rank}
        line |= {"relevance_score": result.relevance_score, "logit": result.logit}
        return {**line, "text": text_at(entry, result.index)} if self._with_text else line

    def _make_part(self) -> None:
        for name, kind in self._kinds.items():
            values = [line.get(name) for line in self._lines]
            try:
                part = as_arrow(values, kind)
            except UNFIT:  # ids of pandas' that are of one type at first and of another further on
                texts = [None if value is None else str(value) for value in values]
                part = as_arrow(texts, pyarrow().string())
            self._parts[name].append(part)
        self._lines = []


def _whole(parts: list[Any]) -> Any:
    """One column of parts; of several types it is text."""
    arrow = pyarrow()
    if len({str(part.type) for part in parts}) > 1:
        parts = [part.cast(arrow.string()) for part in parts]
    return arrow.chunked_array(parts)
