"""What the applications of docs/integrations.md send, as their source has it, and whether they find what they read."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from starlette.testclient import TestClient

from rerankq.testing import AsyncFakeRerankClient, FakeRerankClient
from tests.conftest import REPOSITORY
from tests.neighbours.environments.test_reranking_clients import CLIENTS

PAGE = (REPOSITORY / "docs" / "integrations.md").read_text(encoding="utf-8")
KEY = "a-key-of-the-tests"
QUERY = 'What does a "panda" eat?\n大熊猫'
TEXTS = ["a car", 'a panda eats "bamboo"\n', "a panda", "熊猫 🐼"]

Placed = list[tuple[int, float]]


def results(reply: Any) -> Placed:
    return [(row["index"], row["relevance_score"]) for row in reply["results"]]


def data(score: str) -> Callable[[Any], Placed]:
    return lambda reply: [(row["index"], row[score]) for row in reply["data"]]


def teis_list(reply: Any) -> Placed:
    assert [row["text"] for row in reply] == [TEXTS[row["index"]] for row in reply]
    return [(row["index"], row["score"]) for row in reply]


def with_document_texts(reply: Any) -> Placed:
    assert [row["document"]["text"] for row in reply["results"]] == [
        TEXTS[row["index"]] for row in reply["results"]
    ]
    return results(reply)


def with_document_strings(reply: Any) -> Placed:
    assert [row["document"] for row in reply["data"]] == [TEXTS[row["index"]] for row in reply["data"]]
    return data("relevance_score")(reply)


def each_by_its_index(reply: Any) -> Placed:
    """OpenSearch's `connector.post_process.cohere.rerank`: a float for each document, or it trips."""
    scores: list[Any] = [None] * len(TEXTS)
    for row in reply["results"]:
        scores[row["index"]] = row["relevance_score"]
    assert all(type(score) is float for score in scores)
    return sorted(enumerate(scores), key=lambda place: -place[1])


@dataclass
class Said:
    """One application's request."""

    path: str
    body: Callable[[], Any]
    reads: Callable[[Any], Placed] = results
    headers: dict[str, str] = field(default_factory=lambda: {"Authorization": f"Bearer {KEY}"})


def cohere_shaped(**more: Any) -> Callable[[], Any]:
    return lambda: {"model": "any", "query": QUERY, "documents": TEXTS, **more}


def block(language: str, containing: str) -> str:
    """The block of code on the page that has this in it."""
    found = [code for name, code in re.findall(r"```(\w*)\n(.*?)```", PAGE, re.DOTALL) if name == language]
    (code,) = [code for code in found if containing in code]
    return code


def _console(containing: str) -> Any:
    """The JSON of a request as Kibana's or OpenSearch's console takes it."""
    return json.loads(block("json", containing).partition("\n")[2])


def elasticsearchs() -> Any:
    """Its `custom` service fills in JSON for each `${…}`."""
    request = _console("PUT _inference")["service_settings"]["request"]
    return json.loads(request.replace("${query}", json.dumps(QUERY)).replace("${input}", json.dumps(TEXTS)))


def by_elasticsearchs_paths(reply: Any) -> Placed:
    parser = _console("PUT _inference")["service_settings"]["response"]["json_parser"]
    columns = [parser["reranked_index"], parser["relevance_score"]]
    assert all(path.startswith("$.results[*].") for path in columns)
    names = [path.removeprefix("$.results[*].") for path in columns]
    return [(row[names[0]], row[names[1]]) for row in reply["results"]]


def opensearchs() -> Any:
    """Its connector fills in JSON for a list or a number, and a string's inside for a string."""
    connector = _console("connectors/_create")
    filled = {
        **{name: json.dumps(value)[1:-1] for name, value in connector["parameters"].items()},
        "query": json.dumps(QUERY)[1:-1],
        "documents": json.dumps(TEXTS),
        "top_n": str(len(TEXTS)),
    }
    request = connector["actions"][0]["request_body"]
    return json.loads(re.sub(r"\$\{parameters\.(\w+)\}", lambda found: filled[found[1]], request))


APPLICATIONS = {
    "Dify, OpenAI-API-compatible": Said("/v1/rerank", cohere_shaped(top_n=4)),
    "Dify, Cohere": Said("/v1/rerank", cohere_shaped(top_n=4, return_documents=True), with_document_texts),
    "Dify, Jina": Said("/v1/rerank", cohere_shaped(top_n=None, return_documents=False)),
    "Dify, LocalAI": Said("/rerank", cohere_shaped(top_n=None)),
    "Dify, GPUStack": Said("/v1/rerank", cohere_shaped(top_n=3), lambda reply: results(reply)),
    "Dify, Text Embedding Inference": Said(
        "/rerank", lambda: {"query": QUERY, "texts": TEXTS, "return_text": True}, teis_list
    ),
    "Open WebUI": Said("/v1/rerank", cohere_shaped(top_n=4)),
    "RAGFlow, VLLM": Said("/v1/rerank", cohere_shaped(top_n=4, return_documents=False)),
    "RAGFlow, OpenAI-API-Compatible": Said("/v1/rerank", cohere_shaped(top_n=4)),
    "RAGFlow, Xinference": Said("/v1/rerank", cohere_shaped(return_documents="true", return_len="true")),
    "RAGFlow, LocalAI": Said("/rerank", cohere_shaped(top_n=4)),
    "LibreChat": Said(
        "/v1/rerank",
        cohere_shaped(model="jina-reranker-v2-base-multilingual", top_n=5, return_documents=True),
        with_document_texts,
    ),
    "n8n": Said("/v1/rerank", lambda: {"query": QUERY, "documents": TEXTS, "top_n": 5}),
    "LightRAG": Said("/v2/rerank", cohere_shaped(model="rerank-v3.5", top_n=4)),
    "LiteLLM proxy": Said("/rerank", cohere_shaped(model="rerank")),
    "Elasticsearch": Said("/v1/rerank", elasticsearchs, by_elasticsearchs_paths),
    "OpenSearch": Said("/v1/rerank", opensearchs, each_by_its_index),
}


@pytest.fixture
def http(face: Callable[..., TestClient]) -> TestClient:
    return face(http_keys=KEY)


@pytest.mark.parametrize("said", APPLICATIONS.values(), ids=APPLICATIONS)
def test_an_application_finds_in_the_reply_what_it_reads(
    said: Said, http: TestClient, fake: AsyncFakeRerankClient
) -> None:
    body = said.body()

    reply = http.post(said.path, json=body, headers=said.headers)

    assert reply.status_code == 200, reply.text
    (asked,) = fake.calls
    assert (asked.query, asked.texts) == (QUERY, TEXTS)
    ours = FakeRerankClient().rerank(QUERY, TEXTS, top_n=body.get("top_n"))
    assert said.reads(reply.json()) == [(result.index, result.relevance_score) for result in ours]


def test_dify_looks_at_info_before_it_takes_a_tei(http: TestClient) -> None:
    told = http.get("/info", headers={"Authorization": f"Bearer {KEY}"}).json()

    assert list(told["model_type"]) == ["reranker"]
    assert told["max_client_batch_size"] > 0


def rows(heading: str) -> list[list[str]]:
    """The cells of the table under a heading of the page."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")][1:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_every_application_of_the_page_has_its_request_here() -> None:
    assert [row[0] for row in rows("Applications")] == list(APPLICATIONS)


def test_every_library_of_the_page_is_one_that_make_test_neighbours_runs() -> None:
    named = [name for row in rows("Libraries") for name in re.findall(r"\w+", row[-1].replace("`", ""))]

    assert sorted(named) == sorted({name for _, name, _ in CLIENTS})
