"""What each API's clients send, and what comes back to them."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from starlette.testclient import TestClient

from rerankq.contract.messages import Window
from rerankq.http import HttpSettings, create_app, dialects
from rerankq.http.openapi import document
from rerankq.testing import AsyncFakeRerankClient

CAR, PANDA = "a car", "a panda eats bamboo"
TEXTS = [CAR, PANDA]
ASKED: dict[str, Any] = {"query": "panda", "documents": TEXTS}


def answered(http: TestClient, body: Any, path: str = "/v1/rerank") -> Any:
    reply = http.post(path, json=body)
    assert reply.status_code == 200, reply.text
    return reply.json()


# What is sent, by whom, and what the queue is asked then, where that is not its default.
SAID: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "cohere v2": ({"model": "rerank-v3.5", "top_n": 1, "max_tokens_per_doc": 9}, {"top_n": 1, "max_tokens_per_doc": 9}),
    "cohere v2, langchain": ({"model": "m", "top_n": 3, "max_tokens_per_doc": None, "priority": 0}, {"top_n": 2}),
    "cohere v1": ({"return_documents": True, "max_chunks_per_doc": 10, "rank_fields": None},
                  {"long_documents": "windows", "max_windows_per_doc": 10}),
    "cohere v1, not told": ({"return_documents": True, "max_chunks_per_doc": None}, {}),
    "whole": ({"long_documents": "windows"}, {"long_documents": "windows"}),
    "whole, so far": ({"max_windows_per_doc": "3"}, {"long_documents": "windows", "max_windows_per_doc": 3}),
    "cut whatever is told": ({"long_documents": "truncate", "max_chunks_per_doc": 10}, {"max_windows_per_doc": 10}),
    "a threshold": ({"score_threshold": "0.5"}, {"score_threshold": 0.5}),
    "a threshold of none": ({"threshold": 0}, {"score_threshold": 0.0}),
    "an instruction": ({"instruction": "answers"}, {"instruction": "answers"}),
    "sglang": ({"instruct": "answers"}, {"instruction": "answers"}),
    "vllm, an instruction": ({"chat_template_kwargs": {"instruction": "answers", "x": 1}}, {"instruction": "answers"}),
    "vllm, none": ({"chat_template_kwargs": "x", "instruction": ""}, {}),
    "voyage": ({"top_k": 1, "truncation": True}, {"top_n": 1}),
    "voyage, langchain": ({"top_k": None, "truncation": True}, {}),
    "voyage, not cut": ({"truncation": False}, {"truncation": False}),
    "jina": ({"top_n": 1, "return_documents": False, "max_doc_length": 64}, {"top_n": 1, "max_tokens_per_doc": 64}),
    "vllm, all of them": ({"top_n": 0, "truncate_prompt_tokens": -1}, {}),
    "vllm, a limit": ({"truncate_prompt_tokens": 64}, {"max_tokens_per_doc": 64}),
    "vllm, logits": ({"use_activation": False}, {"raw_scores": True}),
    "infinity": ({"raw_scores": True, "top_n": 8000}, {"raw_scores": True, "top_n": 2}),
    "pinecone": ({"parameters": {"truncate": "END"}, "return_documents": True}, {}),
    "pinecone, not cut": ({"parameters": {"truncate": "NONE"}}, {"truncation": False}),
    "xinference, ragflow": ({"return_documents": "true", "return_len": "true"}, {}),
    "both words for one thing": ({"top_n": 1, "top_k": 2}, {"top_n": 1}),
    "numbers as strings": ({"top_n": "1", "max_tokens_per_doc": "9"}, {"top_n": 1, "max_tokens_per_doc": 9}),
    "very many": ({"top_n": 1e300, "max_tokens_per_doc": 1e40}, {"top_n": 2, "max_tokens_per_doc": 10**9}),
    "digits without end": ({"top_n": 10**40}, {"top_n": 2}),
    "everything null": (dict.fromkeys(("top_n", "top_k", "model", "return_documents", "raw_scores", "truncation")), {}),
    "what nobody knows": ({"user": "u", "stream": False, "lane": "bulk", "timeout": 1}, {}),
}  # fmt: skip


@pytest.mark.parametrize(("sent", "asked"), SAID.values(), ids=SAID)
def test_each_api_asks_in_its_own_words(
    http: TestClient, fake: AsyncFakeRerankClient, sent: dict[str, Any], asked: dict[str, Any]
) -> None:
    told = answered(http, {**ASKED, **sent})

    said = fake.calls[0].model_dump(exclude={"query", "documents", "deadline"}, exclude_defaults=True)
    assert said == asked
    assert told["results"][0]["index"] == 1


REFUSED: dict[str, tuple[dict[str, Any], int, str]] = {
    "no query": ({"query": None}, 422, "query"),
    "an empty query": ({"query": " "}, 400, "query"),
    "a query that is a number": ({"query": 5}, 422, "query"),
    "no documents": ({"documents": None}, 422, "documents"),
    "an empty list": ({"documents": []}, 400, "documents"),
    "one string": ({"documents": "panda"}, 422, "documents"),
    "an object": ({"documents": {"a": "b"}}, 422, "documents"),
    "documents that are numbers": ({"documents": [1, 2]}, 422, "documents[0]"),
    "a document that is null": ({"documents": ["a", None]}, 422, "documents[1]"),
    "a document without text": ({"documents": ["a", {"image": "x"}]}, 422, "documents[1]"),
    "a text that is none": ({"documents": [{"text": {"a": 1}}]}, 422, "documents[0]"),
    "less than none": ({"top_n": -1}, 422, "top_n"),
    "half a document": ({"top_n": 1.5}, 422, "top_n"),
    "a word for a number": ({"top_k": "many"}, 422, "top_k"),
    "true for a number": ({"max_tokens_per_doc": True}, 422, "max_tokens_per_doc"),
    "no boolean": ({"return_documents": "perhaps"}, 422, "return_documents"),
    "a list as a boolean": ({"raw_scores": []}, 422, "raw_scores"),
    "a threshold that is none": ({"score_threshold": "high"}, 422, "score_threshold"),
    "a model that is none": ({"model": 5}, 422, "model"),
    "no way with long documents": ({"long_documents": "whole"}, 422, "long_documents"),
    "half a window": ({"max_chunks_per_doc": 1.5}, 422, "max_chunks_per_doc"),
    "an instruction in parts": ({"instruct": ["a"]}, 422, "instruct"),
    "cut at the other end": ({"truncation_direction": "Left"}, 422, "truncation_direction"),
    "cut at the other end, vllm": ({"truncation_side": "left"}, 422, "truncation_side"),
    "ranked by no field": ({"rank_fields": "title"}, 422, "rank_fields"),
    "no such thing at the deadline": ({"on_deadline": "sometimes"}, 422, "on_deadline"),
    "names beyond number": ({"rank_fields": [str(number) for number in range(101)]}, 422, "rank_fields"),
}


@pytest.mark.parametrize(("sent", "status", "field"), REFUSED.values(), ids=REFUSED)
def test_what_is_wrong_is_refused_by_its_name(
    http: TestClient, sent: dict[str, Any], status: int, field: str
) -> None:
    reply = http.post("/v1/rerank", json={**ASKED, **sent})

    assert reply.status_code == status, reply.text
    assert reply.json()["error"]["param"].startswith(field)


BODIES: dict[str, tuple[bytes, int]] = {
    "nothing": (b"", 400),
    "no json": (b"{query: panda}", 400),
    "a list": (b"[]", 422),
    "a string": (b'"panda"', 422),
    "NaN": (b'{"query": "panda", "documents": ["a"], "score_threshold": NaN}', 400),
    "Infinity": (b'{"query": "panda", "documents": ["a"], "score_threshold": 1e999}', 400),
    "half a character": (b'{"query": "\\ud83d", "documents": ["a"]}', 400),
    "latin-1": ('{"query": "é", "documents": ["a"]}'.encode("latin-1"), 400),
    "utf-16": ('{"query": "a", "documents": ["a"]}'.encode("utf-16"), 400),
    "very deep": (b'{"query": "a", "documents": ' + b"[" * 100_000, 400),
    "deep enough": (b'{"query": "a", "documents": [' + b'{"a":' * 900 + b"1" + b"}" * 900 + b"]}", 422),
    "a byte order mark": (b'\xef\xbb\xbf{"query": "a", "documents": ["a"]}', 200),
    "a name twice": (b'{"query": "x", "query": "a", "documents": ["a"]}', 200),
    "a zero character": (b'{"query": "a\\u0000", "documents": ["\\u0000"]}', 200),
}


@pytest.mark.parametrize(("body", "status"), BODIES.values(), ids=BODIES)
def test_no_body_is_a_bug_of_ours(http: TestClient, body: bytes, status: int) -> None:
    reply = http.post("/v1/rerank", content=body)

    assert reply.status_code == status, reply.text


DOCUMENTS: dict[str, list[Any]] = {
    "texts": TEXTS,
    "Jina, Pinecone": [{"text": CAR}, {"text": PANDA}],
    "LangChain": [{"page_content": CAR, "metadata": {"a": 1}}, {"page_content": PANDA}],
    "content": [{"content": CAR}, {"content": PANDA}],
    "text is null": [{"text": None, "content": CAR}, {"text": None, "content": PANDA}],
    "texts and objects": [CAR, {"text": PANDA}],
}


@pytest.mark.parametrize("documents", DOCUMENTS.values(), ids=DOCUMENTS)
def test_documents_come_back_with_their_text_wherever_it_was(http: TestClient, documents: list[Any]) -> None:
    told = answered(http, {"query": "panda", "documents": documents, "return_documents": True})

    assert [row["document"]["text"] for row in told["results"]] == [PANDA, CAR]


def test_names_of_documents_come_back_as_they_were(http: TestClient) -> None:
    documents = [{"id": 7, "text": PANDA}, {"id": "b", "text": CAR}, {"id": None, "text": CAR}, CAR]

    told = answered(http, {"query": "panda", "documents": documents})

    assert [row.get("id") for row in told["results"]] == [7, "b", None, None]
    assert "document" not in told["results"][0]


def test_fields_to_rank_by_are_joined_in_their_order(http: TestClient, fake: AsyncFakeRerankClient) -> None:
    document = {"title": "Panda", "year": 1999, "body": "eats"}

    told = answered(
        http,
        {
            "query": "q",
            "documents": [document],
            "rank_fields": ["year", "none", "title"],
            "return_documents": True,
        },
    )

    assert fake.calls[0].texts == ["1999\nPanda"]
    assert told["results"][0]["document"] == {"text": "1999\nPanda", **document}


def test_a_field_to_rank_by_is_read_once(http: TestClient, fake: AsyncFakeRerankClient) -> None:
    http.post("/v1/rerank", json={"query": "q", "documents": [{"a": "panda"}], "rank_fields": ["a"] * 50})

    assert fake.calls[0].texts == ["panda"]


def test_what_cannot_be_written_again_is_refused_before_it_is_scored(
    http: TestClient, fake: AsyncFakeRerankClient
) -> None:
    nested = b"[" * 500 + b"]" * 500
    asked = b'{"query": "q", "documents": ["a", {"text": "b", "more": %s}], "return_documents": %s}'

    refused = http.post("/v1/rerank", content=asked % (nested, b"true"))
    scored = http.post("/v1/rerank", content=asked % (nested, b"false"))

    assert (refused.status_code, refused.json()["error"]["param"]) == (422, "documents[1]")
    assert (scored.status_code, len(fake.calls)) == (200, 1)


def test_coheres_second_version_returns_no_documents(http: TestClient) -> None:
    told = answered(http, {**ASKED, "return_documents": True}, "/v2/rerank")

    assert "document" not in told["results"][0]


def test_documents_are_objects_in_results_and_in_data_as_they_were_given(http: TestClient) -> None:
    told = answered(
        http, {"query": "panda", "documents": [{"text": CAR, "n": 1}, PANDA], "return_documents": True}
    )

    assert [row["document"] for row in told["results"]] == [{"text": PANDA}, {"text": CAR, "n": 1}]
    assert [row["document"] for row in told["data"]] == [PANDA, {"text": CAR, "n": 1}]


def test_mixedbread_hears_its_own_words(http: TestClient) -> None:
    told = answered(
        http, {"query": "panda", "input": TEXTS, "top_k": 1, "return_input": True}, "/v1/reranking"
    )

    assert [(row["index"], row["input"]) for row in told["data"]] == [(1, PANDA)]


def test_a_threshold_leaves_out_what_is_below_it(http: TestClient) -> None:
    told = answered(http, {**ASKED, "score_threshold": 0.5})

    assert [row["index"] for row in told["results"]] == [1]
    assert (told["scored"], told["total"]) == (2, 2)


def test_what_was_cut_is_told(http: TestClient) -> None:
    told = answered(http, {**ASKED, "max_tokens_per_doc": 2})

    assert [row["truncated"] for row in told["results"] if "truncated" in row] == [True]
    assert told["usage"]["truncated_documents"] == 1
    assert told["meta"]["warnings"] == ["of 1 of 2 documents only the beginning was read"]


@pytest.mark.parametrize("texts", ["texts", "input", "documents"])
def test_the_window_that_a_score_is_of_is_told_where_there_is_one(
    http: TestClient, fake: AsyncFakeRerankClient, monkeypatch: pytest.MonkeyPatch, texts: str
) -> None:
    whole = fake.rerank

    async def in_windows(*args: Any, **options: Any) -> Any:
        ranking = await whole(*args, **options)
        best = ranking.results[0].model_copy(update={"window": Window(index=1, total=3, start=700, end=1500)})
        return ranking.model_copy(update={"results": [best, *ranking.results[1:]]})

    monkeypatch.setattr(fake, "rerank", in_windows)
    reply = http.post(
        "/rerank", json={"query": ASKED["query"], texts: ASKED["documents"], "long_documents": "windows"}
    ).json()

    rows = reply if texts == "texts" else reply["results"]
    assert [row.get("window") for row in rows] == [{"index": 1, "total": 3, "start": 700, "end": 1500}, None]
    written = {"$ref": "#/components/schemas/AnyRanking", "components": document()["components"]}
    Draft202012Validator(written).validate(reply)


def test_what_was_not_scored_in_time_is_left_out_and_told(
    http: TestClient, fake: AsyncFakeRerankClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fake.rerank

    async def late(*args: Any, **options: Any) -> Any:
        ranking = await whole(*args, **options)
        unscored = ranking.results[1].model_copy(update={"relevance_score": None, "logit": None})
        return ranking.model_copy(
            update={"results": [ranking.results[0], unscored], "complete": False, "scored": 1}
        )

    monkeypatch.setattr(fake, "rerank", late)
    told = answered(http, {**ASKED, "on_deadline": "partial"})

    assert [row["index"] for row in told["results"]] == [1]
    assert (told["complete"], told["scored"], told["total"]) == (False, 1, 2)


SERVED = "BAAI/bge-reranker-v2-m3"
NOT_SERVED = "refused"
NAMES = {
    "served": (SERVED, SERVED),
    "in other letters": ("baai/BGE-reranker-v2-m3", SERVED),
    "its last part": ("bge-reranker-v2-m3", SERVED),
    "its last part, of another house": ("mixedbread-ai/bge-reranker-v2-m3", SERVED),
    "at its revision": (f"{SERVED}@953dc6f", f"{SERVED}@953dc6f6f85a"),
    "at another revision": (f"{SERVED}@abcdef0", NOT_SERVED),
    "its last part, at another revision": ("bge-reranker-v2-m3@abcdef0", NOT_SERVED),
    "a label": ("rerank-v3.5", None),
    "a label with a revision": ("rerank@v3.5", None),
    "another model": ("jinaai/jina-reranker-v2-base-multilingual", NOT_SERVED),
    "none": ("", None),
}


@pytest.mark.parametrize(("name", "meant"), NAMES.values(), ids=NAMES)
def test_a_name_of_a_served_model_is_meant_and_one_without_a_slash_else_a_label(
    http: TestClient,
    fake: AsyncFakeRerankClient,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    meant: str | None,
) -> None:
    served = serving(fake, monkeypatch, SERVED, "953dc6f6f85a")

    reply = http.post("/v1/rerank", json={**ASKED, "model": name})

    if meant == NOT_SERVED:
        assert (reply.status_code, reply.json()["error"]["type"]) == (404, "model_not_found")
        assert served in reply.json()["message"]
    else:
        assert (reply.status_code, fake.calls[0].model) == (200, meant)


SEVERAL = [("BAAI/base", "1"), ("mine/base", "2"), ("mine/base", "3")]
OF_SEVERAL = {
    "by all of its name": ("mine/base", "mine/base"),
    "by its last part, the first": ("base", "BAAI/base"),
    "by its revision": ("mine/base@3", "mine/base@3"),
    "by a revision that only another has": ("base@2", "mine/base@2"),
    "by a name that none has": ("other", None),
}


@pytest.mark.parametrize(("asked", "found"), OF_SEVERAL.values(), ids=OF_SEVERAL)
def test_of_several_models_one_is_meant(asked: str, found: str | None) -> None:
    assert dialects.meant(asked, SEVERAL) == found


def serving(fake: AsyncFakeRerankClient, monkeypatch: pytest.MonkeyPatch, model: str, revision: str) -> str:
    from rerankq.contract.heartbeats import WorkerStatus

    async def workers() -> list[WorkerStatus]:
        return [WorkerStatus(name="w", state="ready", lanes=("interactive",), model=model, revision=revision)]

    monkeypatch.setattr(fake, "workers", workers)
    return model


PATHS = ["/v1/rerank", "/v2/rerank", "/rerank", "/v1/reranking"]


@pytest.mark.parametrize("path", PATHS)
def test_every_path_has_the_rows_by_both_names(http: TestClient, path: str) -> None:
    told = answered(http, ASKED, path)

    assert [row["index"] for row in told["results"]] == [1, 0]
    assert told["data"] == told["results"]


_ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["text", "content", "id", "truncate", "a"]), inner, max_size=2)
    ),
    max_leaves=4,
)
_FIELDS = [
    *(
        "model",
        "top_n",
        "top_k",
        "return_documents",
        "rank_fields",
        "max_tokens_per_doc",
        "truncation",
        "truncate",
    ),
    *(
        "truncate_prompt_tokens",
        "truncation_direction",
        "parameters",
        "raw_scores",
        "score_threshold",
        "on_deadline",
    ),
]
_DOCUMENTS = st.lists(_ANYTHING, max_size=3) | _ANYTHING


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(st.sampled_from(_FIELDS), _ANYTHING, max_size=4),
    st.dictionaries(st.sampled_from(["documents", "texts", "input"]), _DOCUMENTS, min_size=1, max_size=2),
    st.just("panda") | _ANYTHING,
)
def test_whatever_is_said_is_answered_or_refused(
    http: TestClient, options: dict[str, Any], documents: dict[str, Any], query: Any
) -> None:
    reply = http.post("/v1/rerank", content=json.dumps({**options, **documents, "query": query}))

    assert reply.status_code in (200, 400, 404, 413, 422), reply.text


def published(shared_data: Path) -> list[dict[str, Any]]:
    return json.loads((shared_data / "fixtures" / "rerank_api_fixtures.json").read_text(encoding="utf-8"))


def test_every_published_request_is_answered_with_every_key_of_its_published_answer(
    http: TestClient, shared_data: Path, fake: AsyncFakeRerankClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = [pair for pair in published(shared_data) if "request" in pair and "rerank" in pair["path"]]
    for pair in pairs:
        if "model" in pair["request"]:
            serving(fake, monkeypatch, pair["request"]["model"], "")
        path = pair["path"].split()[1]

        told = answered(http, pair["request"], path)

        expected = pair.get("response", {})
        not_asked = {"results[].document"}  # Xinference of that time sent them to everybody
        assert keys_of(expected) - not_asked <= keys_of(told), pair["api"]

    assert len(pairs) >= 6


def test_teis_own_description_is_kept(http: TestClient, shared_data: Path) -> None:
    described = json.loads((shared_data / "fixtures" / "tei_openapi.json").read_text(encoding="utf-8"))
    asked = {"query": "panda", "texts": TEXTS, "raw_scores": True, "return_text": True, "truncate": True,
             "truncation_direction": "Right"}  # fmt: skip

    told = answered(http, asked, "/rerank")
    refused = http.post("/rerank", json={**asked, "texts": []})

    validate(told, "RerankResponse", described)
    validate(refused.json(), "ErrorResponse", described)
    assert refused.status_code == 400


def validate(told: Any, name: str, described: dict[str, Any]) -> None:
    schema = {"$ref": f"#/components/schemas/{name}", "components": described["components"]}
    jsonschema.validate(told, schema)


def keys_of(value: Any, of: str = "") -> set[str]:
    """Each key with the keys that lead to it; what is null in an answer may as well not be there."""
    if isinstance(value, list):
        return {key for each in value[:1] for key in keys_of(each, f"{of}[]")}
    if not isinstance(value, dict):
        return {of}
    return {
        key
        for name, each in value.items()
        if each is not None
        for key in keys_of(each, f"{of}.{name}".strip("."))
    }


def test_a_limit_of_the_service_is_told_without_the_name_of_its_setting() -> None:
    settings = HttpSettings.load(max_documents=2, max_payload_bytes=2048)
    http = TestClient(
        create_app(AsyncFakeRerankClient(settings=settings), settings), base_url="http://127.0.0.1"
    )

    many = http.post(
        "/v1/rerank", json={**ASKED, "documents": [{}] * 3}
    )  # counted before any of them is read
    large = http.post("/v1/rerank", json={**ASKED, "documents": ["a" * 4096]})

    assert (many.status_code, large.status_code) == (413, 413)
    assert "RERANKQ" not in many.text + large.text
