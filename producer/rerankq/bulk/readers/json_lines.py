"""JSON lines in three dialects: our own, OpenAI batch lines, rank_llm's query and candidates."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rerankq.bulk.formats import FieldNames
from rerankq.bulk.rows import ERROR_KEY, Row, broken_row
from rerankq.bulk.source import Identity, Source
from rerankq.contract import wire

_BATCH_OPTIONS = (
    "top_n",
    "max_tokens_per_doc",
    "truncation",
    "raw_scores",
    "return_documents",
)  # of a batch line's body


class JsonLines:
    """`{"query", "documents", "id"?, …}` a line; what else a line carries is carried through."""

    def __init__(self, source: Source, names: FieldNames) -> None:
        self._source = source
        self._names = names

    def records(self) -> Iterator[bytes]:
        """The lines that are not blank."""
        return self._source.lines()

    def row(self, record: bytes) -> Row:
        """What one line says."""
        try:
            fields = wire.decode(record)
        except ValueError:
            return broken_row({"line": record.decode(errors="replace")}, "expected a JSON object, got none")
        if not isinstance(fields, dict):
            return broken_row(
                {"line": record.decode(errors="replace")}, "expected a JSON object, got another value"
            )
        failed: Any = fields.pop(ERROR_KEY, None)
        row = self._understood(fields, len(record))
        return (
            replace(row, first_position=failed["row"])
            if isinstance(failed, dict) and "row" in failed
            else row
        )

    def identities(self) -> list[Identity]:
        """That of the one file."""
        return [self._source.identity()]

    def fraction_read(self) -> float | None:
        """By bytes."""
        return self._source.fraction_read()

    def _understood(self, fields: dict[str, Any], size_bytes: int) -> Row:
        return canonical_row(fields, self._names, size_bytes)


class BatchLines(JsonLines):
    """OpenAI batch: `{"custom_id", "method", "url", "body": {query, documents, top_n, …}}`."""

    def _understood(self, fields: dict[str, Any], size_bytes: int) -> Row:
        body = fields.get("body")
        if not isinstance(body, dict):
            return broken_row(fields, "body: expected an object", size_bytes)
        return Row(
            source=fields,
            query=body.get("query"),
            documents=_documents(body.get("documents"), self._names),
            id=fields.get("custom_id"),
            options={name: body[name] for name in _BATCH_OPTIONS if body.get(name) is not None},
            size_bytes=size_bytes,
        )


class RankLlmLines(JsonLines):
    """rank_llm: `{"query": {"text", "qid"}, "candidates": [{"docid", "score", "doc"}]}`."""

    def _understood(self, fields: dict[str, Any], size_bytes: int) -> Row:
        query, candidates = fields.get("query"), fields.get("candidates")
        if not isinstance(query, dict) or not isinstance(candidates, list):
            return broken_row(fields, "expected query {text, qid} and a list of candidates", size_bytes)
        return Row(
            source=fields,
            query=query.get("text"),
            documents=[_candidate(candidate) for candidate in candidates],
            id=query.get("qid"),
            extra={name: value for name, value in fields.items() if name not in ("query", "candidates")},
            relevant=grades(fields.get("relevant")),
            size_bytes=size_bytes,
        )


def canonical_row(fields: Mapping[str, Any], names: FieldNames, size_bytes: int) -> Row:
    """A row from an object with query, documents and whatever else."""
    own = (names.query, names.documents, names.id)
    return Row(
        source=fields,
        query=fields.get(names.query),
        documents=_documents(fields.get(names.documents), names),
        id=fields.get(names.id),
        extra={name: value for name, value in fields.items() if name not in own},
        relevant=grades(fields.get("relevant")),
        size_bytes=size_bytes,
    )


def grades(relevant: Any) -> dict[str, float] | None:
    """Grades by document id, from `{id: grade}` or a list of the right ones' ids; None for anything else."""
    if isinstance(relevant, dict):
        given = {str(name): grade for name, grade in relevant.items()}
        return given if all(isinstance(grade, int | float) for grade in given.values()) else None
    if isinstance(relevant, Sequence) and not isinstance(relevant, str):
        return {str(name): 1.0 for name in relevant}
    return None


def _documents(given: Any, names: FieldNames) -> Any:
    if not isinstance(given, Sequence) or isinstance(given, str):
        return given  # whoever validates says what is wrong with it
    return [_document(document, names) for document in given]


def _document(given: Any, names: FieldNames) -> Any:
    if not isinstance(given, dict):
        return given
    return _named(given.get(names.text), given.get(names.document_id))


def _candidate(given: Any) -> Any:
    if not isinstance(given, dict):
        return given
    return _named(_text_of(given.get("doc")), given.get("docid"))


def _named(text: Any, name: Any) -> dict[str, Any]:
    return {"text": text} if name is None else {"text": text, "id": str(name)}


def _text_of(doc: Any) -> Any:
    """The text of an Anserini document: title and body, under the names that its indexes use."""
    if not isinstance(doc, dict):
        return doc
    body = next(
        (doc[name] for name in ("text", "contents", "segment", "passage", "body") if name in doc), None
    )
    title = doc.get("title")
    return f"{title} {body}" if title and isinstance(body, str) else body
