"""Bad input gets a clear error that names the field and never repeats the caller's text."""

import math
from collections import UserList, deque
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerankq.contract import wire
from rerankq.contract.errors import InvalidRequest, PayloadTooLarge
from rerankq.contract.messages import (
    Document,
    Limits,
    RerankRequest,
    as_seconds,
    parse_request,
)

SECRET = "zanzibar"
GOOD: dict[str, Any] = {"query": "q", "documents": ["a", "b"]}


class Column:
    """As pandas and polars have them: no sequence, but a list of its own."""

    def __init__(self, values: list[Any]) -> None:
        self._values = values

    def to_list(self) -> list[Any]:
        return self._values


class ChunkedColumn:
    """A column of Arrow's tables."""

    def to_pylist(self) -> list[Any]:
        return ["a", "b"]


BAD = {
    "a model without a name": (
        {"model": ""},
        "model: expected a name of 1 to 256 characters that can be printed",
    ),
    "a name without an end": ({"model": SECRET * 100}, "model: expected a name of 1 to 256 characters"),
    "a name of two lines": ({"model": f"{SECRET}\n"}, "model: expected a name of 1 to 256 characters"),
    "a name of half a character": ({"model": "\ud800"}, "model: expected a name of 1 to 256 characters"),
    "empty query": ({"query": "  "}, "query: expected a query, got an empty string"),
    "no query": ({"query": None}, "query: expected a valid string"),
    "query of a wrong type": ({"query": 3}, "query: expected a valid string"),
    "empty list": ({"documents": []}, "documents: expected at least one document"),
    "one string for the list": (
        {"documents": SECRET},
        "documents: expected a list of strings, got one string",
    ),
    "a number among documents": ({"documents": [SECRET, 3]}, "documents[1]: expected a string or {text, id}"),
    "a null among documents": (
        {"documents": [SECRET, None]},
        "documents[1]: expected a string or {text, id}",
    ),
    "a document without text": ({"documents": [{"id": "x"}]}, "documents[0].text: is missing"),
    "bytes for the list": ({"documents": SECRET.encode()}, "documents: expected a list of strings, got one"),
    "one string in an array": (
        {"documents": np.array(SECRET)},
        "documents: expected a list of strings, got one",
    ),
    "no documents": ({"documents": None}, "documents: expected a list of strings or {text, id}, got None"),
    "a number for the list": (
        {"documents": 3},
        "documents: expected a list of strings or {text, id}, got int",
    ),
    "a dict": ({"documents": {SECRET: "b"}}, "got dict; put them in a list, in their order"),
    "the keys of a dict": ({"documents": {SECRET: "b"}.keys()}, "got dict_keys; put them in a list"),
    "a set": ({"documents": {SECRET, "b"}}, "got set; put them in a list, in their order"),
    "a frozen set": ({"documents": frozenset({SECRET})}, "got frozenset; put them in a list"),
    "a table": ({"documents": np.array([[SECRET, "b"]])}, "documents[0]: expected a string or {text, id}"),
    "bytes among documents": (
        {"documents": [SECRET.encode()]},
        "documents[0]: expected a string or {text, id}",
    ),
    "a missing value in a column": (
        {"documents": Column([SECRET, float("nan")])},
        "documents[1]: expected a string",
    ),
    "a document with a wrong id": (
        {"documents": [{"text": SECRET, "id": 5.5}]},
        "documents[0].id: expected a valid string",
    ),
    "a document called True": (
        {"documents": [{"text": "a", "id": True}]},
        "documents[0].id: expected a valid string",
    ),
    "query as bytes": ({"query": SECRET.encode()}, "query: expected a valid string"),
    "top_n as a switch": ({"top_n": True}, "top_n: expected a valid integer"),
    "top_n as a fraction": ({"top_n": 2.0}, "top_n: expected a valid integer"),
    "top_n beyond counting": ({"top_n": 10**30}, "top_n: expected less than or equal to 1000000000"),
    "a deadline that never comes": ({"deadline": float("inf")}, "deadline: expected a finite number"),
    "a deadline beyond any number": ({"deadline": 10**400}, "deadline: expected a finite number"),
    "a text in a field's place": (
        {"documents": [{f"the {SECRET} of old": 1}]},
        "documents[0].…: no such field; known: text, id",
    ),
    "a text of one word in a field's place": ({"documents": [{"首都": 1}]}, "documents[0].…: no such field"),
    "a text in an argument's place": (
        {f"the {SECRET} of old": 1},
        "…: no such field; known: query, documents",
    ),
    "unknown field of a document": (
        {"documents": [{"text": "a", "title": "b"}]},
        "documents[0].title: no such field; known: text, id",
    ),
    "misspelt field of a document": (
        {"documents": [{"txt": "a"}]},
        "documents[0].txt: no such field; did you mean text?",
    ),
    "unknown field": ({"topn": 3}, "topn: no such field; did you mean top_n?"),
    "top_n as text": ({"top_n": "3"}, "top_n: expected a valid integer"),
    "top_n of zero": ({"top_n": 0}, "top_n: expected greater than or equal to 1"),
    "surrogate in the query": ({"query": SECRET + "\ud800"}, "query: expected text that utf-8 can carry"),
    "surrogate in a document": (
        {"documents": ["a", SECRET + "\udfff"]},
        "documents[1]: expected text that utf-8 can carry",
    ),
    "unknown lane": ({"lane": "fast"}, "lane: expected 'interactive' or 'bulk'"),
    "unknown way at the deadline": ({"on_deadline": "guess"}, "on_deadline: expected 'fail' or 'partial'"),
    "another contract": ({"version": 99}, "version: expected contract version 1 to 2, got 99"),
    "another contract with fields of its own": (
        {"version": 3, "later": [1]},
        "version: expected contract version 1 to 2, got 3; upgrade the older side (and 1 more fields)",
    ),
    "a threshold of text": ({"score_threshold": "high"}, "score_threshold: expected a valid number"),
    "a threshold that nothing meets": ({"score_threshold": math.nan}, "score_threshold: expected a finite"),
    "no windows": ({"max_windows_per_doc": 0}, "max_windows_per_doc: expected greater than or equal to 1"),
    "another way with long documents": (
        {"long_documents": "summarize"},
        "long_documents: expected 'truncate' or 'windows'",
    ),
    "an instruction in parts": ({"instruction": [SECRET]}, "instruction: expected a valid string"),
}


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_refused_by_name(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_request({**GOOD, **change})

    assert message in str(caught.value)
    assert SECRET not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "documents",
    [
        ("a", "b"),
        ["a", Document(text="b")],
        np.array(["a", "b"]),
        np.array(["a", "b"], dtype=object),
        [np.str_("a"), np.str_("b")],
        Column(["a", "b"]),
        ChunkedColumn(),
        deque(["a", "b"]),
        (text for text in "ab"),
        UserList(["a", "b"]),
    ],
    ids=lambda documents: type(documents).__name__,
)
def test_whatever_has_an_order_is_a_list_of_documents(documents: Any) -> None:
    request = parse_request({"query": "q", "documents": documents})

    assert request.texts == ["a", "b"]
    assert parse_request(wire.decode(wire.encode(request.to_wire()))) == request


def test_numbers_of_numpy_are_numbers() -> None:
    request = parse_request(
        {**GOOD, "top_n": np.int64(2), "max_tokens_per_doc": np.uint8(9), "deadline": np.float32(8)}
    )

    assert (request.top_n, request.max_tokens_per_doc, request.deadline) == (2, 9, 8.0)
    assert b'"top_n":2' in wire.encode(request.to_wire())


@pytest.mark.parametrize("timeout", [np.float32(2.5), Decimal("2.5"), Fraction(5, 2), 2.5])
def test_a_timeout_is_any_number_of_seconds(timeout: Any) -> None:
    seconds = as_seconds(timeout)

    assert type(seconds) is float
    assert seconds == 2.5


def test_a_timeout_larger_than_any_number_is_for_ever() -> None:
    assert as_seconds(10**400) == math.inf


@pytest.mark.parametrize(
    "timeout", ["2", True, math.nan, Decimal("NaN"), Decimal("sNaN"), timedelta(seconds=2)]
)
def test_a_timeout_that_is_no_number_of_seconds_is_refused_by_name(timeout: Any) -> None:
    with pytest.raises(InvalidRequest, match="timeout: expected a number of seconds, got"):
        as_seconds(timeout)


def test_an_integer_names_a_document_by_its_digits() -> None:
    documents = [{"text": "a", "id": 7}, {"text": "b", "id": np.int64(8)}, Document(text="c", id="nine")]

    assert parse_request({"query": "q", "documents": documents}).ids == ["7", "8", "nine"]


def test_a_missing_field_is_named() -> None:
    with pytest.raises(InvalidRequest, match="query: is missing"):
        parse_request({"documents": ["a"]})


LIMITS = Limits(max_documents=3, max_document_characters=10, max_request_characters=20)


@pytest.mark.parametrize(
    ("query", "documents", "message"),
    [
        pytest.param("q", ["a"] * 4, "expected at most 3 documents, got 4", id="documents"),
        pytest.param(
            "q", ["a", "b" * 11], r"expected at most 10 characters in documents\[1\], got 11", id="document"
        ),
        pytest.param("q" * 11, ["a"], "expected at most 10 query characters, got 11", id="query"),
        pytest.param("q", ["a" * 10] * 2, "expected at most 20 characters in all, got 21", id="request"),
    ],
)
def test_too_large_a_request_is_refused_with_limit_and_value(
    query: str, documents: list[str], message: str
) -> None:
    with pytest.raises(PayloadTooLarge, match=message):
        LIMITS.check(parse_request({"query": query, "documents": documents}))


def test_an_instruction_has_the_limit_of_a_query() -> None:
    with pytest.raises(PayloadTooLarge, match="at most 10 instruction characters, got 11"):
        LIMITS.check(parse_request({"query": "q", "documents": ["a"], "instruction": "i" * 11}))


def test_a_request_at_every_limit_is_let_in() -> None:
    LIMITS.check(parse_request({"query": "qq", "documents": ["a" * 6, "b" * 6, "c" * 6]}))


def test_an_empty_document_is_a_text_like_any_other() -> None:
    assert parse_request({"query": "q", "documents": ["", "b"]}).texts == ["", "b"]


def test_documents_keep_their_own_ids() -> None:
    request = parse_request({"query": "q", "documents": ["a", {"text": "b", "id": "doc-7"}]})

    assert request.texts == ["a", "b"]
    assert request.ids == [None, "doc-7"]


def test_the_summary_holds_counts_and_no_text() -> None:
    request = parse_request({"query": SECRET, "documents": [SECRET * 1000], "top_n": 5})

    assert request.summary() == "docs=1 chars=8k top_n=5"


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
documents = st.lists(texts | st.builds(Document, text=texts, id=st.none() | texts), min_size=1, max_size=5)


@given(
    query=texts.filter(lambda text: text.strip() != ""),
    documents=documents,
    top_n=st.none() | st.integers(1, 99),
    raw=st.booleans(),
)
def test_a_request_comes_back_from_the_wire_as_it_went(
    query: str, documents: list[str | Document], top_n: int | None, raw: bool
) -> None:
    request = RerankRequest(query=query, documents=documents, top_n=top_n, raw_scores=raw)

    assert parse_request(request.to_wire()) == request


@pytest.mark.parametrize(
    ("asked", "version"),
    [
        ({}, None),
        ({"top_n": 1, "truncation": False}, None),
        ({"instruction": " "}, None),
        ({"long_documents": "truncate"}, None),
        ({"instruction": "find the answer"}, 2),
        ({"score_threshold": 0}, 2),
        ({"long_documents": "windows"}, 2),
    ],
    ids=str,
)
def test_a_message_says_the_least_version_that_can_read_it(
    asked: dict[str, Any], version: int | None
) -> None:
    assert parse_request(GOOD | asked).to_wire().get("version") == version


@pytest.mark.parametrize("said", [{}, {"version": 1}, {"version": 2}], ids=str)
def test_a_message_of_any_version_until_now_is_read(said: dict[str, Any]) -> None:
    assert parse_request(GOOD | said | {"score_threshold": 0.5}).score_threshold == 0.5


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, "truncate"),
        ({"max_windows_per_doc": 3}, "windows"),
        ({"max_windows_per_doc": None}, "truncate"),
        ({"max_windows_per_doc": 3, "long_documents": "truncate"}, "truncate"),
    ],
    ids=str,
)
def test_whoever_says_how_many_windows_asks_for_windows(asked: dict[str, Any], expected: str) -> None:
    request = parse_request(GOOD | asked)

    assert request.long_documents == parse_request(request.to_wire()).long_documents == expected
