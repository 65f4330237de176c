"""`/openapi.json` says what there is, all of it and nothing else; and what is answered is as it says."""

import re
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from starlette.routing import Route
from starlette.testclient import TestClient

from rerankq.http.openapi import document

ASKED = {"query": "panda", "documents": [{"text": "a panda", "id": 7}, "a car"]}
HIDDEN = {"HEAD"}  # goes with every GET


@pytest.fixture
def told(http: TestClient) -> Any:
    return http.get("/openapi.json").json()


def valid(told: Any, path: str, method: str, status: int, body: Any) -> None:
    """Whether a reply is one that the document has for it."""
    response = told["paths"][path][method.lower()]["responses"][str(status)]
    schema = response["content"]["application/json"]["schema"]
    Draft202012Validator({**schema, "components": told["components"]}).validate(body)


def test_every_route_is_in_the_document_and_nothing_else(http: TestClient, told: Any) -> None:
    routes: list[Any] = http.app.routes  # type: ignore[attr-defined]
    served = {(route.path, method) for route in routes for method in route.methods - HIDDEN}
    written = {
        (path, method.upper())
        for path, operations in told["paths"].items()
        for method in operations
        if method != "parameters"
    }

    assert all(isinstance(route, Route) for route in routes)
    assert written == served


def test_every_reference_leads_somewhere(told: Any) -> None:
    for place in set(re.findall(r"#/components/(\w+)/(\w+)", str(told))):
        assert place[1] in told["components"][place[0]]


REPLIES: dict[str, tuple[str, str, Any, int]] = {
    "a ranking": ("POST", "/v1/rerank", ASKED | {"return_documents": True}, 200),
    "in TEI's words": ("POST", "/rerank", {"query": "q", "texts": ["a"], "return_text": True}, 200),
    "in Mixedbread's": ("POST", "/v1/reranking", {"query": "q", "input": ["a"], "return_input": True}, 200),
    "a batch": ("POST", "/v1/rerank/batch", [ASKED, {"query": "", "documents": []}], 200),
    "a job": ("POST", "/v1/jobs", ASKED | {"id": "one"}, 202),
    "a refusal": ("POST", "/v1/rerank", {"query": "q", "documents": [7]}, 422),
    "a refusal in TEI's words": ("POST", "/rerank", {"query": "q", "texts": [7]}, 422),
    "nothing asked": ("POST", "/v1/rerank", {"query": "", "documents": ["a"]}, 400),
    "health": ("GET", "/health", None, 200),
    "readiness": ("GET", "/health/ready", None, 200),
    "models": ("GET", "/v1/models", None, 200),
    "info": ("GET", "/info", None, 200),
    "state": ("GET", "/v1/state", None, 200),
}


@pytest.mark.parametrize(("method", "path", "body", "status"), REPLIES.values(), ids=REPLIES)
def test_a_reply_is_as_it_is_written(
    http: TestClient, told: Any, method: str, path: str, body: Any, status: int
) -> None:
    reply = http.request(method, path, json=body)

    assert reply.status_code == status
    valid(told, path, method, status, reply.json())


def test_what_a_job_comes_to_is_as_it_is_written(http: TestClient, told: Any) -> None:
    done = http.post("/v1/jobs", json=ASKED).json()["id"]
    late = http.post("/v1/jobs", json=ASKED | {"deadline": 1}).json()["id"]

    for job_id, end in ((done, "ranking"), (late, "error")):
        reply = http.get(f"/v1/jobs/{job_id}")
        assert end in reply.json()
        valid(told, "/v1/jobs/{job_id}", "get", 200, reply.json())
    assert http.delete(f"/v1/jobs/{done}").status_code == 409
    valid(told, "/v1/jobs/{job_id}", "delete", 404, http.delete("/v1/jobs/nobodys").json())


def test_what_it_takes_is_told_apart_as_the_bodies_are(told: Any) -> None:
    asks = Draft202012Validator(
        {"$ref": "#/components/schemas/RerankRequest", "components": told["components"]}
    )

    assert all(
        map(
            asks.is_valid,
            (ASKED, {"query": "q", "texts": ["a"], "top_n": None}, {"query": "q", "input": ["a"]}),
        )
    )
    assert not any(
        map(asks.is_valid, ({"query": "q"}, {"query": "q", "documents": []}, {"documents": ["a"]}))
    )


def test_it_is_found_where_the_application_is_mounted() -> None:
    assert document("/reranking")["servers"] == [{"url": "/reranking"}]
