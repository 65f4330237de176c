"""What each reranking API asks and wants to hear, told by the body and not by the path. No I/O.

    texts       Text Embeddings Inference: a list comes back
    input       Mixedbread
    documents   Cohere, Jina, Voyage, Pinecone, vLLM, infinity

All but the first get one reply, in which each finds its own: `results` and `data` have the same rows, and a row has
both `relevance_score` and `score`. A field that is null is not there; one that nobody here knows is ignored; of two
names for one thing the first that is there holds.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from rerankq.contract import wire
from rerankq.contract.errors import InvalidRequest, PayloadTooLarge
from rerankq.contract.messages import RankedDocument, Ranking, RequestOptions

Dialect = Literal["tei", "mixedbread", "cohere"]
Fields = Mapping[str, Any]
T = TypeVar("T")

TEXT_FIELDS = ("text", "content", "page_content", "passage", "body")
"""Where a document that is an object has its text, the first that is there."""

_DOCUMENTS = ("texts", "input", "documents")
_TOP = ("top_n", "top_k")
_MOST_TOKENS = ("max_tokens_per_doc", "max_doc_length", "truncate_prompt_tokens")
_RETURN = ("return_documents", "return_input", "return_text")
_TRUNCATE = ("truncation", "truncate", "parameters")
_ACTIVATE = ("use_activation", "activation")
_MOST_WINDOWS = ("max_windows_per_doc", "max_chunks_per_doc")
_THRESHOLD = ("score_threshold", "relevance_threshold", "threshold")
_INSTRUCTION = ("instruction", "instruct", "chat_template_kwargs")
_SYNONYMS = (
    *(_DOCUMENTS, _TOP, _MOST_TOKENS, _RETURN, _TRUNCATE, ("raw_scores", *_ACTIVATE)),
    *(("long_documents", *_MOST_WINDOWS), _THRESHOLD, _INSTRUCTION),
)

MOST_RANK_FIELDS = 100
DOCUMENTS_PER_SEARCH_UNIT = 100  # docs.cohere.com, "How does pricing work"
_NO_DOCUMENT_HAS_SO_MANY = 1_000_000_000  # tokens, or windows
_TRUE, _FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")


@dataclass(frozen=True, slots=True)
class Asked:
    """What a body asks for, in our own words."""

    dialect: Dialect
    query: Any
    documents: list[Any]
    """Texts, or `{text, id}`."""
    given: list[Any]
    """The documents as the caller had them, for `return_documents`; none where they are not at hand."""
    options: RequestOptions
    model: str | None = None
    return_documents: bool = False


def dialect_of(body: Any) -> Dialect:
    """Which API's words these are."""
    fields = body if isinstance(body, dict) else {}
    if fields.get("texts") is not None:
        return "tei"
    return "mixedbread" if fields.get("input") is not None else "cohere"


def read(body: Any, *, max_documents: int, may_return_documents: bool = True) -> Asked:
    """What a body asks for.

    Args:
        max_documents: as many are read; of more each would hold up whoever else is served.
        may_return_documents: Cohere's second version has no such field, yet LiteLLM sends it with every request.

    Raises:
        InvalidRequest: it is no object, or a field of it is wrong.
        PayloadTooLarge: there are more documents.
    """
    if not isinstance(body, dict):
        raise InvalidRequest("body: expected a JSON object", {"field": "body"})
    dialect = dialect_of(body)
    fields: dict[str, Any] = {name: value for name, value in body.items() if value is not None}
    given = _documents(fields, dialect)
    if len(given) > max_documents:
        raise PayloadTooLarge(
            f"expected at most {max_documents:,} documents, got {len(given):,}; split the request",
            {"limit": max_documents, "value": len(given)},
        )
    rank_fields = _names(fields, "rank_fields")
    wants_documents = any(_flag(fields, name) for name in _RETURN) and may_return_documents
    if wants_documents:
        _refuse_what_cannot_come_back(given)
    return Asked(
        dialect=dialect,
        query=_query(fields),
        documents=[_document(index, value, rank_fields) for index, value in enumerate(given)],
        given=given,
        options=_options(fields, len(given)),
        model=_string(fields, "model"),
        return_documents=wants_documents,
    )


def reply(asked: Asked, ranking: Ranking) -> Any:
    """The ranking in the words of whoever asked.

    What was not scored in time (`on_deadline`) is not in it: it has no score, and clients fail on a null.
    """
    kept = [row for row in ranking.results if row.scored]
    if asked.dialect == "tei":
        return [_tei_row(asked, row) for row in kept]
    rows = [_row(asked, row) for row in kept]
    return {
        "id": ranking.id,
        "object": "rerank",  # infinity's own client takes nothing else, the others anything
        "model": ranking.model.name,
        "results": rows,
        "data": [_as_given(asked, row) for row in rows],
        "meta": _meta(ranking),
        "usage": _usage(ranking),
        "complete": ranking.complete,
        "scored": ranking.scored,
        "total": ranking.total,
        "worker": {**ranking.worker.model_dump(), "revision": ranking.model.revision},
        "timings": ranking.timings.model_dump(),
    }


def completed(own: Fields, shared: Fields) -> Fields:
    """A request's own fields, and of those that are said for several what it has no word for, this or another API's."""
    told = {name: value for name, value in own.items() if value is not None}
    for_one_thing = {name for names in _SYNONYMS if not told.keys().isdisjoint(names) for name in names}
    return {name: value for name, value in shared.items() if name not in for_one_thing} | told


def field_of(fields: Fields, name: str, expected: str, kind: Callable[[Any], T]) -> T | None:
    """A field as what it should be; None where it is not there.

    Args:
        expected: what that is, in words.
        kind: makes it so, or raises TypeError or ValueError.

    Raises:
        InvalidRequest: it is something else.
    """
    value = fields.get(name)
    try:
        return None if value is None else kind(value)
    except (TypeError, ValueError):
        raise InvalidRequest(f"{name}: expected {expected}", {"field": name}) from None


def finite(value: Any) -> float:
    """A number, or its digits; neither true nor endless."""
    number = math.nan if isinstance(value, bool) else float(value)
    if not math.isfinite(number):
        raise ValueError
    return number


def meant(asked: str, served: Sequence[tuple[str, str]]) -> str | None:
    """The model that is called so, of these names and revisions; None where none of them is.

    By all of its name, or else by its last part, in any case; `name@revision` by the beginning of its revision.
    """
    name, _, wanted = asked.casefold().partition("@")
    fitting = [each for each in served if each[1].casefold().startswith(wanted)]
    exact = [each for each in fitting if each[0].casefold() == name]
    for model, revision in exact or [each for each in fitting if _last_part(each[0]) == _last_part(name)]:
        return f"{model}@{revision}" if wanted else model
    return None


def _last_part(name: str) -> str:
    return name.casefold().rstrip("/").rpartition("/")[2]


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


def _refuse_what_cannot_come_back(given: list[Any]) -> None:
    """JSON is read a thousand levels deep, and written 254."""
    for index, document in enumerate(given):
        try:
            wire.encode([[[[[[[[document]]]]]]]] if isinstance(document, dict) else None)
        except TypeError:
            field = f"documents[{index}]"
            message = (
                f"{field}: is nested too deeply to come back; send less of it, or do without return_documents"
            )
            raise InvalidRequest(message, {"field": field}) from None


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
        parts = [_told_in_text(given[name]) for name in rank_fields if given.get(name) is not None]
        return "\n".join(parts) if parts else None
    return next((given[name] for name in TEXT_FIELDS if given.get(name) is not None), None)


def _told_in_text(value: Any) -> str:
    if not isinstance(value, str | int | float):
        raise InvalidRequest(
            "rank_fields: expected fields that hold a text or a number", {"field": "rank_fields"}
        )
    return str(value)


def _options(fields: Fields, documents: int) -> RequestOptions:
    _refuse_cutting_from_the_left(fields)
    options: RequestOptions = {}
    if top_n := _first(fields, _TOP, _count):  # vLLM's 0 means all
        options["top_n"] = min(top_n, documents)
    # Each a limit to what is read of a document; vLLM's counts the query too, and its -1 is the model's own.
    if most := _first(fields, _MOST_TOKENS, _limit):
        options["max_tokens_per_doc"] = min(most, _NO_DOCUMENT_HAS_SO_MANY)
    if _may_not_cut(fields):
        options["truncation"] = False
    if _flag(fields, "raw_scores") or any(_flag(fields, name) is False for name in _ACTIVATE):
        options["raw_scores"] = True
    if most := _first(fields, _MOST_WINDOWS, _count):
        options["max_windows_per_doc"] = min(most, _NO_DOCUMENT_HAS_SO_MANY)
    if (threshold := _first(fields, _THRESHOLD, _number)) is not None:
        options["score_threshold"] = threshold
    if instruction := _first(fields, _INSTRUCTION, _instruction):
        options["instruction"] = instruction
    if fields.get("long_documents") is not None:
        options["long_documents"] = fields["long_documents"]
    if fields.get("on_deadline") is not None:
        options["on_deadline"] = fields["on_deadline"]
    return options


def _first(fields: Fields, names: tuple[str, ...], read: Callable[[Fields, str], Any]) -> Any:
    """What the first of these fields says that is there; each of them must be right."""
    told = [read(fields, name) for name in names if fields.get(name) is not None]
    return told[0] if told else None


def _may_not_cut(fields: Fields) -> bool:
    """By Voyage's word, TEI's, or Pinecone's."""
    parameters = fields.get("parameters")
    pinecones = parameters.get("truncate", "END") if isinstance(parameters, dict) else "END"
    return (
        any(_flag(fields, name) is False for name in ("truncation", "truncate"))
        or str(pinecones).upper() == "NONE"
    )


def _refuse_cutting_from_the_left(fields: Fields) -> None:
    for name in ("truncation_direction", "truncation_side"):
        if str(fields.get(name, "right")).lower() != "right":
            raise InvalidRequest(f"{name}: expected right; documents are cut at their end", {"field": name})


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
    return field_of(fields, name, "a whole number, 0 or more", _whole)


def _limit(fields: Fields, name: str) -> int | None:
    return None if fields.get(name) == -1 else _count(fields, name)


def _number(fields: Fields, name: str) -> float | None:
    return field_of(fields, name, "a number", finite)


def _string(fields: Fields, name: str) -> str | None:
    return field_of(fields, name, "a string", _plain)


def _instruction(fields: Fields, name: str) -> str | None:
    if name != "chat_template_kwargs":  # what vLLM hands on to a model's template
        return _string(fields, name)
    return _string(fields[name], "instruction") if isinstance(fields[name], dict) else None


def _whole(value: Any) -> int:
    number = finite(value)
    if number < 0 or number != int(number):
        raise ValueError
    return int(number)


def _plain(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _names(fields: Fields, name: str) -> list[str]:
    value = fields.get(name, [])
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise InvalidRequest(f"{name}: expected a list of names", {"field": name})
    if len(value) > MOST_RANK_FIELDS:  # each is looked for in each document
        message = f"{name}: expected at most {MOST_RANK_FIELDS} names, got {len(value):,}"
        raise InvalidRequest(message, {"field": name})
    return list(dict.fromkeys(value))  # the same text many times would be larger than any body


def _row(asked: Asked, row: RankedDocument) -> dict[str, Any]:
    told: dict[str, Any] = {
        "index": row.index,
        "relevance_score": row.relevance_score,
        "score": row.relevance_score,
    }
    told |= _read(row)
    given = asked.given[row.index] if asked.given else {"id": row.id}  # whoever asks for a job has them not
    if row.id is not None:
        told["id"] = given["id"]  # a number stays one
    if asked.return_documents:
        told["document"] = {"text": _text_of(asked, row.index), **_told(given)}
        if asked.dialect == "mixedbread":
            told["input"] = given
    return told


def _as_given(asked: Asked, row: dict[str, Any]) -> dict[str, Any]:
    """The row, where a document that came as a string is one again: Voyage's clients read no other."""
    if "document" not in row:
        return row
    given = asked.given[row["index"]]
    return {**row, "document": given} if isinstance(given, str) else row


def _told(given: Any) -> dict[str, Any]:
    """What a document that is an object has to say."""
    return (
        {name: value for name, value in given.items() if value is not None} if isinstance(given, dict) else {}
    )


def _text_of(asked: Asked, index: int) -> str:
    document = asked.documents[index]
    return document if isinstance(document, str) else document["text"]


def _tei_row(asked: Asked, row: RankedDocument) -> dict[str, Any]:
    told: dict[str, Any] = {"index": row.index, "score": row.relevance_score}
    if asked.return_documents:
        told["text"] = _text_of(asked, row.index)
    return told | _read(row)


def _read(row: RankedDocument) -> dict[str, Any]:
    """What of the document its score is of, where that is not all of it."""
    told: dict[str, Any] = {"truncated": True} if row.truncated else {}
    return told if row.window is None else told | {"window": row.window.model_dump()}


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
