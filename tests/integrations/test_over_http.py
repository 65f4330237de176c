"""What a `rerankq serve`, or whatever stands in its place, answers: as an adapter meets it."""

import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from rerankq import (
    BrokerUnavailable,
    Cancelled,
    DeadlineExceeded,
    InvalidRequest,
    InvalidSettings,
    JobFailed,
    NoWorkers,
    PayloadTooLarge,
    QueueFull,
    RerankError,
)

pytest.importorskip("httpx")
from rerankq.integrations.asking import Asks
from rerankq.integrations.over_http import (
    ANSWER_GRACE_SECONDS,
    AsyncHttpRerankClient,
    HttpRerankClient,
    Place,
)

RANKED = {"results": [{"index": 1, "relevance_score": 0.9}, {"index": 0, "relevance_score": 0.1}]}


class Stub(ThreadingHTTPServer):
    """Answers every request the same, and remembers what was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status, self.headers, self.body, self.asked = 200, {}, json.dumps(RANKED), []
        self.answers = threading.Event()
        self.answers.set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Stub

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.asked.append((self.path, self.headers, json.loads(body)))
        self.server.answers.wait(10)
        self.send_response(self.server.status)
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(self.server.body.encode())

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@pytest.fixture
def stub() -> Iterator[Stub]:
    with Stub() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        yield server
        server.answers.set()
        server.shutdown()


def refusal(type_name: str, message: str = "as it says", param: str | None = None) -> str:
    return json.dumps({"message": message, "error": {"type": type_name, "message": message, "param": param}})


def test_the_ranking_is_read_and_the_request_is_ours(stub: Stub) -> None:
    ranked = HttpRerankClient(stub.url, "a-key").rerank("q", ["a", "b"], top_n=2, model="m", timeout=3)

    assert ranked == [Place(1, 0.9), Place(0, 0.1)]
    path, headers, body = stub.asked[0]
    assert (path, headers["authorization"], headers["x-timeout-seconds"]) == (
        "/v1/rerank",
        "Bearer a-key",
        "3.000",
    )
    assert body == {"query": "q", "documents": ["a", "b"], "top_n": 2, "model": "m"}


def test_an_adapter_asks_for_all_that_it_was_told(stub: Stub) -> None:
    told = {"long_documents": "windows", "max_windows_per_doc": 4, "score_threshold": 0.5, "instruction": "i"}

    ranked = Asks(url=stub.url, top_n=2, **told)._ranked("q", ["a", "b"])
    Asks(url=stub.url)._ranked("q", ["a"])

    assert [place.index for place in ranked] == [1, 0]
    assert stub.asked[0][2] == {"query": "q", "documents": ["a", "b"], "top_n": 2, "version": 2, **told}
    assert stub.asked[1][2] == {"query": "q", "documents": ["a"]}


def test_it_is_awaited_in_any_event_loop(stub: Stub) -> None:
    client = AsyncHttpRerankClient(stub.url)

    for _ in range(2):
        assert asyncio.run(client.rerank("q", ["a", "b"]))[0].index == 1


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ("", "/v1/rerank"),
        ("/", "/v1/rerank"),
        ("/v1", "/v1/rerank"),
        ("/v2/", "/v2/rerank"),
        ("/rerank", "/rerank"),
        ("/behind/a/proxy", "/behind/a/proxy/v1/rerank"),
        ("/behind/a/proxy/v1/rerank", "/behind/a/proxy/v1/rerank"),
    ],
)
def test_an_address_may_be_as_long_as_people_have_it(stub: Stub, given: str, path: str) -> None:
    HttpRerankClient(stub.url + given).rerank("q", ["a"])

    assert stub.asked[0][0] == path


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        pytest.param(422, refusal("invalid_request"), InvalidRequest, id="422"),
        pytest.param(413, refusal("payload_too_large"), PayloadTooLarge, id="413"),
        pytest.param(429, refusal("queue_full"), QueueFull, id="429"),
        pytest.param(503, refusal("no_workers"), NoWorkers, id="503, no worker"),
        pytest.param(503, refusal("broker_unavailable"), BrokerUnavailable, id="503, no Redis"),
        pytest.param(504, refusal("deadline_exceeded"), DeadlineExceeded, id="504"),
        pytest.param(409, refusal("cancelled"), Cancelled, id="409"),
        pytest.param(500, refusal("job_failed"), JobFailed, id="500"),
        pytest.param(401, refusal("unauthorized"), InvalidSettings, id="401"),
        pytest.param(400, refusal("invalid_request"), InvalidRequest, id="400"),
        pytest.param(502, "<html>Bad Gateway</html>", BrokerUnavailable, id="a proxy's 502"),
        pytest.param(429, "slow down", QueueFull, id="a proxy's 429"),
        pytest.param(413, "<html>", PayloadTooLarge, id="a proxy's 413"),
        pytest.param(404, "nothing here", InvalidSettings, id="somebody else's 404"),
        pytest.param(301, "", BrokerUnavailable, id="a redirect"),
        pytest.param(503, '{"error": "odd"}', BrokerUnavailable, id="an error of another shape"),
        pytest.param(503, "[]", BrokerUnavailable, id="a list"),
        pytest.param(200, "<html>Welcome</html>", InvalidSettings, id="a page"),
        pytest.param(200, '{"results": [{}]}', InvalidSettings, id="rows of another shape"),
    ],
)
def test_a_refusal_is_an_error_of_ours(stub: Stub, status: int, body: str, kind: type[RerankError]) -> None:
    stub.status, stub.body = status, body

    with pytest.raises(RerankError) as met:
        HttpRerankClient(stub.url).rerank("q", ["a"])

    assert type(met.value) is kind
    assert "\n" not in str(met.value)


def test_what_the_server_says_is_told_with_its_field_and_its_time_to_come_back(stub: Stub) -> None:
    stub.status, stub.headers = 429, {"Retry-After": "7"}
    stub.body = refusal("queue_full", "the lane is full", "query")

    with pytest.raises(QueueFull, match="the lane is full") as full:
        HttpRerankClient(stub.url).rerank("q", ["a"])

    assert (full.value.retry_after_seconds, full.value.details["field"]) == (7.0, "query")


@pytest.mark.parametrize("told", ["Wed, 21 Oct 2026 07:28:00 GMT", "nan", ""])
def test_a_time_to_come_back_that_is_no_number_is_passed_over(stub: Stub, told: str) -> None:
    stub.status, stub.headers, stub.body = 429, {"Retry-After": told}, refusal("queue_full")

    with pytest.raises(QueueFull) as full:
        HttpRerankClient(stub.url).rerank("q", ["a"])

    assert full.value.retry_after_seconds == 1.0


def test_nobody_there_is_told_without_password_or_text() -> None:
    with pytest.raises(BrokerUnavailable, match=r"http://127\.0\.0\.1:1 could not be asked") as away:
        HttpRerankClient("http://user:secret@127.0.0.1:1").rerank("private", ["private"])

    assert "secret" not in str(away.value)
    assert "private" not in str(away.value)


def test_a_server_that_says_nothing_is_left(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rerankq.integrations.over_http.ANSWER_GRACE_SECONDS", 0.0)
    assert ANSWER_GRACE_SECONDS > 0
    stub.answers.clear()

    with pytest.raises(DeadlineExceeded, match="no answer"):
        HttpRerankClient(stub.url).rerank("q", ["a"], timeout=0.2)


@pytest.mark.parametrize(
    ("query", "documents"),
    [
        pytest.param("", ["a"], id="no query"),
        pytest.param("q", [], id="no documents"),
        pytest.param("q", ["half \ud83d"], id="half a character"),
    ],
)
def test_what_the_queue_would_refuse_is_refused_here(stub: Stub, query: str, documents: list[str]) -> None:
    with pytest.raises(InvalidRequest):
        HttpRerankClient(stub.url).rerank(query, documents)

    assert stub.asked == []


@pytest.mark.parametrize("url", ["http://", "http://host:port", "https://[::1"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(InvalidSettings, match="http://host:8787"):
        HttpRerankClient(url)


@pytest.mark.parametrize("key", ["ключ", "two words", "with its line end\n"])
def test_a_key_that_no_header_can_carry_is_refused_without_being_told(key: str) -> None:
    with pytest.raises(InvalidSettings, match="api_key") as refused:
        HttpRerankClient("http://127.0.0.1:1", key)

    assert key not in str(refused.value)
