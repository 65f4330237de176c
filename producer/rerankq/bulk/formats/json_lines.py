"""JSON lines in three dialects, each answered in kind: our own, OpenAI batch lines, rank_llm's query and candidates."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from rerankq.bulk.formats.fields import (
    chosen,
    document,
    documents_at,
    id_at,
    judgements_at,
    judgements_left,
    missing_field,
    missing_in_documents,
    paths,
    query_at,
    titled_text_at,
    without,
)
from rerankq.bulk.formats.inputs import Given
from rerankq.bulk.formats.interface import Reader, Writer
from rerankq.bulk.formats.names import RELEVANT_KEY, FieldNames, Layout
from rerankq.bulk.rows import (
    ERROR_KEY,
    Entry,
    InputRow,
    Ranked,
    beside,
    broken_row,
    by_place,
    document_key,
    may_leave_out,
    place_of,
    text_at,
)
from rerankq.contract import wire
from rerankq.contract.errors import InvalidRequest
from rerankq.contract.messages import OPTIONS_SINCE_VERSION_2, RankedDocument, Ranking

_OUR_KEYS = ("id", "row", "results", "complete")
_LONG_NUMBER = re.compile(rb"[:,\[\s]-?\d{19}")  # may not fit into 64 bits
_DIGITS_ALIKE = bytes(ord("0") if chr(byte) in "0123456789" else byte for byte in range(256))
_LONG_DIGITS = b"0" * 19
_ROW_OPTIONS = ("top_n", "max_tokens_per_doc", "truncation", "raw_scores", *OPTIONS_SINCE_VERSION_2)
_BATCH_OPTIONS = (*_ROW_OPTIONS, "return_documents", "model")  # of a batch line's body
_SERVED = ("/rerank", "/score")
_SCORE_NAMES = FieldNames(
    query=("queries", "text_1", "data_1", "query"), documents=("documents", "text_2", "items", "data_2")
)


class JsonLinesReader(Reader):
    """`{"query", "documents", "id"?, …}` a line; what else a line carries is carried through."""

    def records(self) -> Iterator[bytes]:
        return self._input.lines()

    def row(self, record: bytes) -> InputRow:
        try:
            fields = decoded(record)
        except ValueError as error:
            reason = f"expected a JSON object, got none: {_told(error)}"
            return broken_row({}, reason, len(record), line=record)
        if not isinstance(fields, dict):
            reason = f"expected a JSON object, got {type(fields).__name__}"
            return broken_row({}, reason, len(record), line=record)
        failed: Any = fields.pop(ERROR_KEY, None)
        row = self._understood(fields, len(record))
        if not isinstance(failed, dict):
            return replace(row, line=record)
        place = failed.get("row")
        return replace(
            row,
            line=_without_reason(record, fields),
            first_position=place if isinstance(place, int) else None,
            place={name: failed[name] for name in ("file", "line") if name in failed},
        )

    def _understood(self, fields: dict[str, Any], size_bytes: int) -> InputRow:
        return canonical_row(fields, self._names, size_bytes)


class BatchReader(JsonLinesReader):
    """OpenAI batch: `{"custom_id", "method", "url", "body"}`, the body being a rerank or, as vLLM has it, a score
    request."""

    def _understood(self, fields: dict[str, Any], size_bytes: int) -> InputRow:
        body, url = fields.get("body"), fields.get("url")
        broken = partial(broken_row, fields, size_bytes=size_bytes, id_=fields.get("custom_id"))
        if not isinstance(body, dict):
            return broken("body: expected an object")
        if isinstance(url, str) and not url.endswith(_SERVED):
            served = " or ".join(_SERVED)
            return broken(f"url: expected one that ends in {served}, got {url[:100]}")
        names = _SCORE_NAMES if _is_score(fields) else self._names
        options = {name: body[name] for name in _BATCH_OPTIONS if body.get(name) is not None}
        if options.get("top_n") == 0 or _is_score(fields):
            options["top_n"] = None  # vLLM's 0 is all of them; a score request has no such thing
        if _is_score(fields):
            options["score_threshold"] = None
        if body.get("use_activation") is False:
            options["raw_scores"] = True
        if body.get("max_chunks_per_doc"):  # Cohere's
            options.setdefault("max_windows_per_doc", body["max_chunks_per_doc"])
        row = canonical_row(body, names, size_bytes)
        if isinstance(row.query, list):
            return broken(f"expected one query in a line, got {len(row.query)}")
        lone = _is_score(fields) and isinstance(row.documents, str)
        documents = [row.documents] if lone else row.documents
        return InputRow(
            source=fields,
            query=row.query,
            documents=documents,
            id=fields.get("custom_id"),
            options=options,
            size_bytes=size_bytes,
        )


class RankLlmReader(JsonLinesReader):
    """rank_llm: `{"query": {"text", "qid"}, "candidates": [{"docid", "score", "doc"}]}`, or as it is published
    `{"query", "hits": [{"content", "qid", "docid", "rank", "score"}]}`."""

    def _understood(self, fields: dict[str, Any], size_bytes: int) -> InputRow:
        query, key = fields.get("query"), _candidates_key(fields)
        candidates = fields.get(key)
        if not isinstance(query, dict | str) or not isinstance(candidates, list):
            return broken_row(fields, "expected a query, and a list of candidates or hits", size_bytes)
        query = query if isinstance(query, dict) else {"text": query, "qid": fields.get("qid")}
        ids = [
            one["qid"] for one in (query, *candidates) if isinstance(one, dict) and one.get("qid") is not None
        ]
        if any(str(name) != str(ids[0]) for name in ids):
            return broken_row(fields, "qid: expected one for all candidates, got several", size_bytes)
        documents = [_candidate(candidate, self._names) for candidate in candidates]
        relevant, error = _judgements(fields, self._names, {key: documents})
        return InputRow(
            source=fields,
            query=query.get("text"),
            documents=documents,
            id=ids[0] if ids else None,
            extra={name: value for name, value in fields.items() if name not in ("query", "qid", key)},
            relevant=relevant,
            size_bytes=size_bytes,
            error=error,
        )


class JsonLinesWriter(Writer):
    """`{"id", "results": [{index, id?, relevance_score, logit, window?}], …what the row carried}`.

    A row without an id of its own is named by its place, `row`, counted from 0.
    """

    def lines(self, entry: Entry, ranking: Ranking) -> bytes:
        results = [self._result(entry, result) for result in ranking.results]
        partial = {} if ranking.complete else {"complete": False}
        carried = {beside(name, _OUR_KEYS): value for name, value in entry.row.extra.items()}
        fields: dict[str, Any] = {**name_of(entry), **carried, "results": results, **partial}
        return line_of({name: fields[name] for name in self._layout.shown.among(list(fields))})

    def _result(self, entry: Entry, result: RankedDocument) -> dict[str, Any]:
        fields: dict[str, Any] = {"index": result.index}
        if result.id is not None:
            fields["id"] = result.id
        fields["relevance_score"] = result.relevance_score
        fields["logit"] = result.logit
        if result.truncated:
            fields["truncated"] = True
        if result.window is not None:
            fields["window"] = result.window.model_dump()
        if self._layout.task.with_documents:
            fields["document"] = text_at(entry, result.index)
        return fields


def keys_of(row: InputRow, _layout: Layout) -> list[str]:
    """What a line can show of a row."""
    return [*_OUR_KEYS, *(beside(name, _OUR_KEYS) for name in row.extra)]


class BatchWriter(Writer):
    """OpenAI batch answers: `{"id", "custom_id", "response": {status_code, request_id, body}, "error"}`."""

    def lines(self, entry: Entry, ranking: Ranking) -> bytes:
        name = f"batch_req_{place_of(entry)}"  # not the job's id, which is another in every run
        tokens = ranking.usage.tokens
        body = {
            "id": name,
            "object": "list",
            "model": ranking.model.name,
            **_batch_answer(entry, ranking),
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }
        response = {"status_code": 200, "request_id": name, "body": body}
        return line_of({"id": name, "custom_id": entry.row.id, "response": response, "error": None})


class RankLlmWriter(Writer):
    """The line that came, its candidates or hits reordered, `score` being the relevance score, `rank` the new one."""

    def lines(self, entry: Entry, ranking: Ranking) -> bytes:
        key = _candidates_key(entry.row.source)
        given: Any = entry.row.source[key]
        ranked = [
            _rescored(given[result.index], result.relevance_score, rank)
            for rank, result in enumerate(ranking.results, start=1)
        ]
        return line_of({**entry.row.source, key: ranked})


def ranked_lines(
    given: Given, *, understood: Callable[[Mapping[str, Any], FieldNames], Ranked]
) -> Iterator[Ranked]:
    """The rankings of an output in one of the dialects."""
    for line in given.input.lines():
        try:
            yield understood(decoded(line), given.names)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidRequest(
                f"line {given.input.line} of {given.input.at.path}: expected a ranking as `rerankq bulk` writes it",
                {"field": "output", "line": given.input.line},
            ) from error


def ranked_row(fields: Mapping[str, Any], names: FieldNames) -> Ranked:
    """A line of ours, a failed row's among the answers of a pipe included."""
    query = str(fields.get("id", fields.get("row")))
    if "error" in fields and "results" not in fields:
        return Ranked(query, None)
    return _ranked_results(query, fields["results"], fields, names, is_cut=may_leave_out(fields))


def ranked_batch(fields: Mapping[str, Any], names: FieldNames) -> Ranked:
    """A batch answer; its documents are called by their places."""
    if fields["response"] is None:
        return Ranked(str(fields["custom_id"]), None)
    body: Mapping[str, Any] = fields["response"]["body"]
    results = body["results"] if "results" in body else sorted(body["data"], key=lambda one: -one["score"])
    return _ranked_results(str(fields["custom_id"]), results, {}, names)


def ranked_candidates(given: Given) -> Iterator[Ranked]:
    """Lines of rank_llm's, as they came but for the order of their candidates; nothing tells the one they came in."""
    reader = RankLlmReader(given)
    for record in reader.records():
        row = reader.row(record)
        if row.error is not None:
            raise row.error
        keys = [document_key(document.get("id"), place) for place, document in enumerate(row.documents)]
        yield Ranked(str(row.id), by_place(keys), None, *judgements_left(row.source, given.names))


def _ranked_results(
    query: str,
    results: Sequence[Mapping[str, Any]],
    fields: Mapping[str, Any],
    names: FieldNames,
    *,
    is_cut: bool = False,
) -> Ranked:
    ids = {result["index"]: result.get("id") for result in results}
    keys = {index: document_key(name, index) for index, name in ids.items()}
    places = range(len(ids))
    if is_cut or not all(place in ids for place in places):
        return Ranked(query, by_place(list(keys.values())), None, *judgements_left(fields, names))
    documents = [{} if ids[place] is None else {"id": ids[place]} for place in places]
    before = by_place([keys[place] for place in places])
    return Ranked(query, by_place(list(keys.values())), before, *judgements_left(fields, names, documents))


def failed_line(row: InputRow, reason: Mapping[str, Any]) -> bytes:
    """The row as it came, to the byte, its reason as the last key; a line that is no object has no room for one."""
    if row.line is None:
        return line_of({**row.source, ERROR_KEY: reason})
    if not row.source:
        return row.line + b"\n"
    head, _, _ = row.line.rpartition(b"}")
    return head.rstrip() + b"," + line_of({ERROR_KEY: reason})[1:]


def _without_reason(record: bytes, fields: Mapping[str, Any]) -> bytes:
    """The line before its reason was put in; told anew where somebody has moved the reason about."""
    head = record[: record.rindex(f'"{ERROR_KEY}"'.encode())].rstrip().removesuffix(b",") + b"}"
    try:
        return head if decoded(head) == fields else line_of(fields).rstrip()
    except ValueError:
        return line_of(fields).rstrip()


def _told(error: ValueError) -> str:
    """Reason and column, without the text."""
    return f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)


def decoded(record: bytes) -> Any:
    """The value of a line; whole numbers of any length stay what they are."""
    value = wire.decode(record)
    # The pattern alone takes ten times as long, longer than the decoding itself.
    is_long = _LONG_DIGITS in record.translate(_DIGITS_ALIKE) and _LONG_NUMBER.search(record)
    return json.loads(record) if is_long else value


def is_batch(line: Mapping[str, Any]) -> bool:
    """Whether a line is one of an OpenAI batch, or of its answers."""
    return "custom_id" in line and ("body" in line or "response" in line)


def is_rank_llm(line: Mapping[str, Any]) -> bool:
    """Whether a line is one of rank_llm's."""
    candidates = line.get(_candidates_key(line))
    if not isinstance(candidates, list) or "documents" in line or "query" not in line:
        return False
    has_known = all(isinstance(one, dict) and "docid" in one for one in candidates)
    return isinstance(line["query"], dict) or (has_known and ("hits" in line or bool(candidates)))


def _candidates_key(line: Mapping[str, Any]) -> str:
    return "hits" if "hits" in line else "candidates"


def canonical_row(fields: Mapping[str, Any], names: FieldNames, size_bytes: int) -> InputRow:
    """A row from an object with query, documents and whatever else."""
    given = [chosen(fields, part) for part in (names.query, names.documents, names.id)]
    listed = {} if given[1] is None else documents_at(fields, given[1])
    parts = {path: _documents(documents, names) for path, documents in listed.items()}
    relevant, error = _judgements(fields, names, parts)
    extra = _further(fields, [path for name in given if name for path in paths(fields, name)])
    if relevant and RELEVANT_KEY not in fields:
        extra = {**extra, RELEVANT_KEY: relevant}  # what they were told from may be among the documents
    return InputRow(
        source=fields,
        query=query_at(fields, names.query),
        documents=_strung_together(list(parts.values())),
        id=id_at(fields, names.id),
        extra=extra,
        options={name: fields[name] for name in _ROW_OPTIONS if fields.get(name) is not None},
        relevant=relevant,
        size_bytes=size_bytes,
        error=missing_field(fields, names) or missing_in_documents(listed, names) or error,
    )


def _judgements(
    fields: Mapping[str, Any], names: FieldNames, parts: Mapping[str, Any]
) -> tuple[dict[str, float] | None, InvalidRequest | None]:
    """What the row says is relevant, and what is wrong with that."""
    try:
        return judgements_at(fields, names.relevant, parts), None
    except InvalidRequest as error:
        return None, error


def _strung_together(parts: list[Any]) -> Any:
    if len(parts) < 2:
        return parts[0] if parts else None
    return [one for part in parts for one in (part if isinstance(part, list) else [part])]


def _further(fields: Mapping[str, Any], own: list[str]) -> Mapping[str, Any]:
    """What the row carries besides what lies at its own paths."""
    for path in own:
        fields = without(fields, path) or {}
    return fields


def _documents(given: Any, names: FieldNames) -> Any:
    if not isinstance(given, Sequence) or isinstance(given, str):
        return given  # whoever validates says what is wrong with it
    return [document(one, names) for one in given]


def _candidate(given: Any, names: FieldNames) -> Any:
    if not isinstance(given, dict):
        return given
    doc: Any = given.get("doc", given)
    text, name = titled_text_at(doc, names.text) if isinstance(doc, dict) else doc, given.get("docid")
    return {"text": text} if name is None else {"text": text, "id": str(name)}


def name_of(entry: Entry) -> dict[str, Any]:
    """What tells the row from the others."""
    return {"row": place_of(entry)} if entry.row.id is None else {"id": entry.row.id}


def line_of(fields: Any) -> bytes:
    """One line of JSON."""
    try:
        return wire.encode(fields) + b"\n"
    except TypeError:  # a whole number of more than 64 bits, which a caller may well have as an id
        return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _is_score(line: Mapping[str, Any]) -> bool:
    """Whether a batch line asks for scores in the documents' order; without a url its body tells."""
    url = line.get("url")
    return url.endswith("/score") if isinstance(url, str) else "query" not in line["body"]


def _batch_answer(entry: Entry, ranking: Ranking) -> dict[str, Any]:
    if _is_score(entry.row.source):
        scores = sorted((result.index, result.relevance_score) for result in ranking.results)
        return {"data": [{"index": index, "object": "score", "score": score} for index, score in scores]}
    with_documents = bool(entry.row.options.get("return_documents"))
    return {"results": [_batch_result(entry, result, with_documents) for result in ranking.results]}


def _batch_result(entry: Entry, result: RankedDocument, with_documents: bool) -> dict[str, Any]:
    fields: dict[str, Any] = {"index": result.index, "relevance_score": result.relevance_score}
    if result.window is not None:
        fields["window"] = result.window.model_dump()
    return {**fields, "document": {"text": text_at(entry, result.index)}} if with_documents else fields


def _rescored(candidate: Any, score: float | None, rank: int) -> Any:
    if not isinstance(candidate, dict):
        return candidate
    return {**candidate, **({"rank": rank} if "rank" in candidate else {}), "score": score}
