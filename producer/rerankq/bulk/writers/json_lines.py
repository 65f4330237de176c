"""JSON lines in three dialects: our own, OpenAI batch answers, rank_llm's reordered candidates."""

from typing import Any

from rerankq.bulk.rows import Entry
from rerankq.contract import wire
from rerankq.contract.messages import RankedDocument, Ranking


class JsonLines:
    """`{"id", "results": [{index, id?, relevance_score, logit}], …what the row carried}`.

    A row without an id of its own is named by its place, `row`, counted from 0.
    """

    def __init__(self, *, with_documents: bool = False) -> None:
        self._with_documents = with_documents

    def header(self) -> bytes:
        """Nothing."""
        return b""

    def lines(self, entry: Entry, ranking: Ranking) -> bytes:
        """One line."""
        return line_of(self.fields(entry, ranking))

    def fields(self, entry: Entry, ranking: Ranking) -> dict[str, Any]:
        """The line as an object."""
        results = [self._result(entry, result) for result in ranking.results]
        partial = {} if ranking.complete else {"complete": False}
        return {**name_of(entry), **entry.row.extra, "results": results, **partial}

    def _result(self, entry: Entry, result: RankedDocument) -> dict[str, Any]:
        fields: dict[str, Any] = {"index": result.index}
        if result.id is not None:
            fields["id"] = result.id
        fields["relevance_score"] = result.relevance_score
        fields["logit"] = result.logit
        if result.truncated:
            fields["truncated"] = True
        if self._with_documents:
            fields["document"] = text_at(entry, result.index)
        return fields


class BatchLines:
    """OpenAI batch answers: `{"id", "custom_id", "response": {status_code, request_id, body}, "error"}`."""

    def header(self) -> bytes:
        """Nothing."""
        return b""

    def lines(self, entry: Entry, ranking: Ranking) -> bytes:
        """One line."""
        name = f"batch_req_{place_of(entry)}"  # not the job's id, which is another in every run
        with_documents = bool(entry.row.options.get("return_documents"))
        body = {
            "id": name,
            "object": "list",
            "model": ranking.model.name,
            "results": [_batch_result(entry, result, with_documents) for result in ranking.results],
            "usage": {"total_tokens": ranking.usage.tokens},
        }
        response = {"status_code": 200, "request_id": name, "body": body}
        return line_of({"id": name, "custom_id": entry.row.id, "response": response, "error": None})


class RankLlmLines:
    """The line that came, its candidates reordered, `score` being the relevance score."""

    def header(self) -> bytes:
        """Nothing."""
        return b""

    def lines(self, entry: Entry, ranking: Ranking) -> bytes:
        """One line."""
        given: Any = entry.row.source["candidates"]
        ranked = [_rescored(given[result.index], result.relevance_score) for result in ranking.results]
        return line_of({**entry.row.source, "candidates": ranked})


def name_of(entry: Entry) -> dict[str, Any]:
    """What tells the row from the others."""
    return {"row": place_of(entry)} if entry.row.id is None else {"id": entry.row.id}


def place_of(entry: Entry) -> int:
    """The row's place in the first input, also when it comes from an errors file."""
    return entry.position if entry.row.first_position is None else entry.row.first_position


def text_at(entry: Entry, index: int) -> str:
    """The text of a document, from the caller's own copy."""
    if entry.request is None:
        raise RuntimeError("This is a bug: an answer to a row that was never asked")
    document = entry.request.documents[index]
    return document if isinstance(document, str) else document.text


def line_of(fields: Any) -> bytes:
    """One line of JSON."""
    return wire.encode(fields) + b"\n"


def _batch_result(entry: Entry, result: RankedDocument, with_documents: bool) -> dict[str, Any]:
    fields: dict[str, Any] = {"index": result.index, "relevance_score": result.relevance_score}
    return {**fields, "document": {"text": text_at(entry, result.index)}} if with_documents else fields


def _rescored(candidate: Any, score: float | None) -> Any:
    return {**candidate, "score": score} if isinstance(candidate, dict) else candidate
