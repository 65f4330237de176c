"""`/rerank` in the words of each API, against a real service."""

from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from rerankq.http import HttpSettings, create_app
from tests.service import Service

QUERY = "中国的首都是哪里？"
DOCUMENTS = ["上海是中国最大的城市和经济中心。", "北京是中国的政治中心和首都。"]


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with Service() as service:
        yield service


@pytest.fixture(scope="module")
def http(service: Service) -> Iterator[TestClient]:
    settings = HttpSettings.load(broker_url=service.redis.url, redis_timeout_seconds=5.0)
    with TestClient(create_app(settings=settings), base_url="http://127.0.0.1") as client:
        yield client


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank", "/rerank", "/v1/reranking"])
def test_every_path_has_the_rows_by_both_names(http: TestClient, path: str) -> None:
    told = http.post(
        path, json={"query": QUERY, "documents": DOCUMENTS, "model": "any", "top_n": None}
    ).json()

    assert [row["index"] for row in told["results"]] == [1, 0]
    assert told["data"] == told["results"]


def test_texts_are_answered_with_teis_list(http: TestClient) -> None:
    told = http.post("/rerank", json={"query": QUERY, "texts": DOCUMENTS, "return_text": True}).json()

    assert [row["text"] for row in told] == [DOCUMENTS[1], DOCUMENTS[0]]


def test_an_empty_list_is_refused_in_words_that_every_client_reads(http: TestClient) -> None:
    refused = http.post("/v1/rerank", json={"query": QUERY, "documents": []})

    told = refused.json()
    assert refused.status_code == 400
    assert told["message"] == told["detail"] == told["error"]["message"]
