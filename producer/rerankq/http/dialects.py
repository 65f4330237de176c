"""What each reranking API asks and wants to hear, told by the body and not by the path. No I/O.

    texts       Text Embeddings Inference: a list comes back
    input       Mixedbread
    documents   Cohere, Jina, Voyage, Pinecone, vLLM, infinity

All but the first get one reply, in which each finds its own: `results` and `data` are the same rows, and a row has both
`relevance_score` and `score`. A field that is null is not there; one that nobody here knows is ignored.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rerankq.contract.errors import InvalidRequest
from rerankq.contract.messages import RankedDocument, Ranking, RequestOptions

Dialect = Literal["tei", "mixedbread", "cohere"]
Fields = Mapping[str, Any]

TEXT_FIELDS = ("text", "content", "page_content", "passage", "body")
"""Where a document that is an object has its text, the first that is there."""

DOCUMENTS_PER_SEARCH_UNIT = 100  # docs.cohere.com, "How does pricing work"
_TRUE, _FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")


@dataclass(frozen=True, slots=True)
class Asked:
    """What a body asks for, in our own words."""

    dialect: Dialect
    query: Any
    documents: list[Any]
    """Texts, or `{text, id}`."""
    given: list[Any]
    """The documents as the caller had them, for `return_documents`."""
    options: RequestOptions
    model: str | None = None
    score_threshold: float | None = None
    return_documents: bool = False


def dialect_of(body: Any) -> Dialect:
    """Which API's words these are."""
    fields = body if isinstance(body, dict) else {}
    if fields.get("texts") is not None:
        return "tei"
    return "mixedbread" if fields.get("input") is not None else "cohere"


def read(body: Any, *, may_return_documents: bool = True) -> Asked:
    """What a body asks for.

    Args:
        may_return_documents: Cohere's second version has no such field, yet LiteLLM sends it with every request.

    Raises:
        InvalidRequest: it is no object, or a field of it is wrong.
    """
    if not isinstance(body, dict):
        raise InvalidRequest("body: expected a JSON object", {"field": "body"})
    dialect = dialect_of(body)
    fields: dict[str, Any] = {name: value for name, value in body.items() if value is not None}
    given = _documents(fields, dialect)
    rank_fields = _names(fields, "rank_fields")
    wants_documents = any(_flag(fields, name) for name in ("return_documents", "return_input", "return_text"))
    return Asked(
        dialect=dialect,
        query=_query(fields),
        documents=[_document(index, value, rank_fields) for index, value in enumerate(given)],
        given=given,
        options=_options(fields),
        model=_string(fields, "model"),
        score_threshold=_number(fields, "score_threshold"),
        return_documents=wants_documents and may_return_documents,
    )


def reply(asked: Asked, ranking: Ranking) -> Any:
    """The ranking in the words of whoever asked."""
    threshold = -math.inf if asked.score_threshold is None else asked.score_threshold
    kept = [row for row in ranking.results if threshold == -math.inf or _score(row) >= threshold]
    if asked.dialect == "tei":
        return [_tei_row(asked, row) for row in kept]
    rows = [_row(asked, row) for row in kept]
    return {
        "id": ranking.id,
        "object": "list",
        "model": ranking.model.name,
        "results": rows,
        "data": rows,
        "meta": _meta(ranking),
        "usage": _usage(ranking),
        "complete": ranking.complete,
        "scored": ranking.scored,
        "total": ranking.total,
        "worker": {**ranking.worker.model_dump(), "revision": ranking.model.revision},
        "timings": ranking.timings.model_dump(),
    }


def _documents(fields: Fields, dialect: Dialect) -> list[Any]:
    name = {"tei": "texts", "mixedbread": "input", "cohere": "documents"}[dialect]
    given = fields.get(name)
    if given is None:
        raise InvalidRequest(f"{name}: is missing", {"field": name})
    if not isinstance(given, list):
        raise InvalidRequest(f"{name}: expected a list of strings or objects", {"field": name})
    if not given:
        raise InvalidRequest(f"{name}: list of documents must not be empty", {"field": name, "empty": True})
    return given


def _query(fields: Fields) -> Any:
    query = fields.get("query")
    if isinstance(query, dict):  # Jina's {"text": …}
        query = query.get("text")
    if query is None:
        raise InvalidRequest("query: is missing", {"field": "query"})
    if isinstance(query, str) and not query.strip():
        raise InvalidRequest("query: must not be empty", {"field": "query", "empty": True})
    return query


def _document(index: int, given: Any, rank_fields: list[str]) -> Any:
    """A document as we call its parts."""
    if not isinstance(given, dict):
        return given
    text = _text(given, rank_fields)
    if text is None:
        known = ", ".join(rank_fields or TEXT_FIELDS)
        raise InvalidRequest(f"documents[{index}]: has none of {known}", {"field": f"documents[{index}]"})
    name = given.get("id")
    return (
        {"text": text, "id": name}
        if isinstance(name, str | int) and not isinstance(name, bool)
        else {"text": text}
    )


def _text(given: Fields, rank_fields: list[str]) -> Any:
    if rank_fields:
        parts = [str(given[name]) for name in rank_fields if given.get(name) is not None]
        return "\n".join(parts) if parts else None
    return next((given[name] for name in TEXT_FIELDS if given.get(name) is not None), None)


def _options(fields: Fields) -> RequestOptions:
    options: RequestOptions = {}
    top_n = _count(fields, "top_n") or _count(fields, "top_k")  # vLLM's 0 means all
    if top_n:
        options["top_n"] = top_n
    if most := _count(fields, "max_tokens_per_doc"):
        options["max_tokens_per_doc"] = most
    for name in ("truncation", "truncate"):  # Voyage's word, and TEI's
        if _flag(fields, name) is False:
            options["truncation"] = False
    if _flag(fields, "raw_scores"):
        options["raw_scores"] = True
    if fields.get("on_deadline") is not None:
        options["on_deadline"] = fields["on_deadline"]
    return options


def _flag(fields: Fields, name: str) -> bool | None:
    """None: it is not there."""
    value = fields.get(name)
    if value is None or isinstance(value, bool):
        return value
    word = str(value).strip().lower()
    if word not in (*_TRUE, *_FALSE):
        raise InvalidRequest(f"{name}: expected true or false", {"field": name})
    return word in _TRUE


def _count(fields: Fields, name: str) -> int | None:
    return _read(fields, name, "a whole number, 0 or more", _whole)


def _number(fields: Fields, name: str) -> float | None:
    return _read(fields, name, "a number", _finite)


def _string(fields: Fields, name: str) -> str | None:
    return _read(fields, name, "a string", _plain)


def _read(fields: Fields, name: str, expected: str, kind: Callable[[Any], Any]) -> Any:
    value = fields.get(name)
    try:
        return None if value is None else kind(value)
    except (TypeError, ValueError):
        raise InvalidRequest(f"{name}: expected {expected}", {"field": name}) from None


def _whole(value: Any) -> int:
    number = _finite(value)
    if number < 0 or number != int(number):
        raise ValueError
    return int(number)


def _finite(value: Any) -> float:
    number = math.nan if isinstance(value, bool) else float(value)
    if not math.isfinite(number):
        raise ValueError
    return number


def _plain(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _names(fields: Fields, name: str) -> list[str]:
    value = fields.get(name, [])
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise InvalidRequest(f"{name}: expected a list of names", {"field": name})
    return value


def _score(row: RankedDocument) -> float:
    return -math.inf if row.relevance_score is None else row.relevance_score


def _row(asked: Asked, row: RankedDocument) -> dict[str, Any]:
    told: dict[str, Any] = {
        "index": row.index,
        "relevance_score": row.relevance_score,
        "score": row.relevance_score,
    }
    if row.truncated:
        told["truncated"] = True
    if row.id is not None:
        told["id"] = row.id
    if asked.return_documents:
        given = asked.given[row.index]
        told["document"] = (
            {**given, **asked.documents[row.index]} if isinstance(given, dict) else {"text": given}
        )
        if asked.dialect == "mixedbread":
            told["input"] = given
    return told


def _tei_row(asked: Asked, row: RankedDocument) -> dict[str, Any]:
    told: dict[str, Any] = {"index": row.index, "score": row.relevance_score}
    if asked.return_documents:
        given = asked.given[row.index]
        told["text"] = given if isinstance(given, str) else asked.documents[row.index]["text"]
    return told | ({"truncated": True} if row.truncated else {})


def _meta(ranking: Ranking) -> dict[str, Any]:
    meta: dict[str, Any] = {
        "api_version": {"version": "2"},
        "billed_units": {"search_units": _search_units(ranking)},
        "tokens": {"input_tokens": ranking.usage.tokens},
    }
    if cut := ranking.usage.truncated_documents:
        meta["warnings"] = [f"of {cut} of {ranking.total} documents only the beginning was read"]
    return meta


def _usage(ranking: Ranking) -> dict[str, Any]:
    return {
        "prompt_tokens": ranking.usage.tokens,
        "total_tokens": ranking.usage.tokens,
        "rerank_units": _search_units(ranking),
        **ranking.usage.model_dump(exclude={"tokens"}),
    }


def _search_units(ranking: Ranking) -> int:
    return math.ceil(ranking.total / DOCUMENTS_PER_SEARCH_UNIT)
