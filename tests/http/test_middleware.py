"""Who is let in, what they are told, and what is written down of them."""

import logging
import os
import time
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from rerankq import (
    BrokerUnavailable,
    Cancelled,
    DeadlineExceeded,
    InvalidSettings,
    JobFailed,
    NoWorkers,
    QueueFull,
    RerankError,
)
from rerankq.contract import traces
from rerankq.http import HttpSettings, keys
from rerankq.testing import AsyncFakeRerankClient
from tests.http.conftest import Face

ASKED = {"query": "panda", "documents": ["a panda", "a car"]}
SHOWN = [
    {"Authorization": "Bearer second"},
    {"authorization": "bearer second"},
    {"Api-Key": "second"},
    {"X-Api-Key": "second"},
    {"Authorization": "Bearer ", "Api-Key": "second"},
]


@pytest.mark.parametrize(
    "shown", SHOWN, ids=["Bearer", "bearer", "Api-Key", "X-Api-Key", "an empty one beside it"]
)
def test_any_of_the_keys_opens_however_it_is_shown(face: Face, shown: dict[str, str]) -> None:
    http = face(http_keys="first,\nsecond ключ")

    assert http.post("/v1/rerank", json=ASKED, headers=shown).status_code == 200


def test_a_key_may_have_any_letters(face: Face) -> None:
    http = face(http_keys="ключ")

    assert http.post("/v1/rerank", json=ASKED, headers={"Api-Key": "ключ".encode()}).status_code == 200  # type: ignore[dict-item]


@pytest.mark.parametrize("path", ["/v1/rerank", "/v1/state", "/metrics", "/nowhere"])
def test_without_a_key_of_ours_nothing_is_told(face: Face, path: str) -> None:
    http = face(http_keys="secret")

    refused = http.get(path, headers={"Authorization": "Bearer guessed"})

    assert refused.status_code == 401
    assert refused.headers["WWW-Authenticate"] == "Bearer"
    assert refused.json()["error"]["type"] == "invalid_api_key"


def test_health_is_told_to_everybody(face: Face) -> None:
    assert face(http_keys="secret").get("/health", headers={"Host": "pod.example"}).status_code == 200


def test_keys_in_a_file_change_without_a_restart_and_stay_where_the_new_ones_cannot_be_read(
    face: Face, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "LOOK_SECONDS", 0.0)
    monkeypatch.setenv("RERANKQ_SECRETS_DIR", str(tmp_path))
    file = tmp_path / "rerankq_http_keys"
    file.write_text("old")
    http = face()

    def status_of(key: str) -> int:
        return http.post("/v1/rerank", json=ASKED, headers={"Api-Key": key}).status_code

    before = status_of("old"), status_of("new")
    file.write_text("new\n")
    after = status_of("old"), status_of("new")
    file.write_bytes(b"\xff\xfe broken")
    broken = status_of("new")
    file.unlink()
    gone = status_of("new"), status_of("")

    assert before == (200, 401)
    assert after == (401, 200)
    assert broken == 200
    assert gone == (200, 401)


FROM_A_PAGE = {
    "a page elsewhere": {"Origin": "https://evil.example"},
    "a page without an origin": {"Origin": "null"},
    "another port of this machine": {"Origin": "http://127.0.0.1:3000"},
    "a browser's own word": {"Sec-Fetch-Site": "cross-site"},
    "a name that is pointed here": {"Host": "evil.example:8787"},
    "a name that only looks like ours": {"Host": "localhost.evil.example"},
    "no name at all": {"Host": "[::1"},
}


@pytest.mark.parametrize("headers", FROM_A_PAGE.values(), ids=FROM_A_PAGE)
def test_without_keys_no_web_page_reaches_us_by_the_browser_that_shows_it(
    http: TestClient, fake: AsyncFakeRerankClient, headers: dict[str, str]
) -> None:
    assert http.post("/v1/rerank", json=ASKED, headers=headers).status_code == 403
    assert fake.calls == []


@pytest.mark.parametrize("host", ["127.0.0.1:8787", "localhost", "LOCALHOST:1", "[::1]:8787", "127.1.2.3"])
def test_without_keys_programs_of_this_machine_and_our_own_page_are_answered(
    http: TestClient, host: str
) -> None:
    ours = {"Host": host, "Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin"}

    assert http.post("/v1/rerank", json=ASKED, headers=ours).status_code == 200


def test_without_keys_another_machine_is_not_answered_whatever_it_calls_us(http: TestClient) -> None:
    elsewhere = TestClient(http.app, base_url="http://127.0.0.1:8787", client=("10.1.2.3", 1))

    assert elsewhere.post("/v1/rerank", json=ASKED).status_code == 403


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "", "::", "10.0.0.1", "a-host", "::ffff:10.0.0.1", "localhost.example"]
)
def test_beyond_loopback_keys_are_needed_however_the_address_is_written(host: str) -> None:
    with pytest.raises(InvalidSettings, match="RERANKQ_HTTP_KEYS"):
        HttpSettings.load(http_host=host).refuse_open_doors()
    HttpSettings.load(http_host=host, http_keys="k").refuse_open_doors()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.0.0.2", "::ffff:127.0.0.1"])
def test_loopback_needs_no_key(host: str) -> None:
    HttpSettings.load(http_host=host).refuse_open_doors()


FAILURES: list[tuple[RerankError, int, str]] = [
    (QueueFull("full", {"retry_after_seconds": 2.5}), 429, "queue_full"),
    (NoWorkers("of redis://10.0.0.1; start one with `rerankq-worker`"), 503, "no_workers"),
    (BrokerUnavailable("redis://10.0.0.1 is away"), 503, "broker_unavailable"),
    (DeadlineExceeded("1 of 2 documents were scored"), 504, "deadline_exceeded"),
    (JobFailed("the engine on 10.0.0.1 could not", {"attempts": 3}), 500, "job_failed"),
    (Cancelled("job x was called off by an operator"), 409, "cancelled"),
]


@pytest.mark.parametrize(("error", "status", "kind"), FAILURES, ids=[kind for _, _, kind in FAILURES])
def test_every_failure_has_its_status_and_one_shape_that_all_clients_read(
    http: TestClient, fake: AsyncFakeRerankClient, error: RerankError, status: int, kind: str
) -> None:
    fake.fail_next(error)

    reply = http.post("/v1/rerank", json=ASKED, headers={"X-Request-Id": "mine-1"})

    told = reply.json()
    assert reply.status_code == told["error"]["code"] == status
    assert told["error"]["type"] == kind
    assert told["message"] == told["detail"] == told["error"]["message"]
    assert told["id"] == reply.headers["X-Request-Id"] == "mine-1"
    assert ("Retry-After" in reply.headers) == (status in (429, 503))
    assert "10.0.0.1" not in reply.text


@pytest.mark.parametrize(("error", "status", "kind"), FAILURES, ids=[kind for _, _, kind in FAILURES])
def test_teis_clients_are_refused_in_teis_words(
    http: TestClient, fake: AsyncFakeRerankClient, error: RerankError, status: int, kind: str
) -> None:
    fake.fail_next(error)

    reply = http.post("/rerank", json={"query": "panda", "texts": ["a panda"]})

    assert reply.status_code == status
    assert set(reply.json()) == {"error", "error_type"}
    assert reply.json()["error_type"] in (
        "Unhealthy",
        "Backend",
        "Overloaded",
        "Validation",
        "Tokenizer",
        "Empty",
    )


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v1/nowhere", 404), ("GET", "/v1/rerank", 405)],
    ids=["path", "method"],
)
def test_what_is_not_there_is_told_in_the_same_shape(
    http: TestClient, method: str, path: str, status: int
) -> None:
    reply = http.request(method, path)

    assert reply.status_code == reply.json()["error"]["code"] == status


def test_a_bug_of_ours_is_told_and_logged_without_a_word_of_what_was_asked(
    http: TestClient,
    fake: AsyncFakeRerankClient,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError("a panda")

    monkeypatch.setattr(fake, "rerank", broken)
    with caplog.at_level(logging.INFO):
        reply = http.post("/v1/rerank", json=ASKED)

    assert reply.status_code == 500
    assert reply.json()["id"] in caplog.text
    assert "KeyError at" in caplog.text
    assert "panda" not in caplog.text + reply.text


def test_a_request_in_a_trace_hands_it_to_its_job_and_tells_it_in_the_log(
    http: TestClient,
    fake: AsyncFakeRerankClient,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    trace, handed = "0af7651916cd43dd8448eb211c80319c", []
    ask = fake.rerank

    async def rerank(*arguments: Any, **options: Any) -> Any:
        handed.append(traces.handed.get())
        return await ask(*arguments, **options)

    monkeypatch.setattr(fake, "rerank", rerank)
    with caplog.at_level(logging.INFO, "rerankq.http"):
        for told in (f"00-{trace}-b7ad6b7169203331-01", "panda"):
            http.post("/v1/rerank", json=ASKED, headers={"traceparent": told})

    assert handed == [f"00-{trace}-b7ad6b7169203331-01", None]
    assert [vars(record)["fields"]["trace_id"] for record in caplog.records] == [trace, None]


def test_every_request_is_one_line_with_its_route_and_no_text(
    http: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "rerankq.http"):
        http.post("/v1/rerank?q=secret", json=ASKED)
        http.get("/secret/path")

    first, second = [record.getMessage() for record in caplog.records]
    assert first.startswith("POST /v1/rerank 200 ")
    assert " 2 documents request " in first
    assert second.startswith("GET - 404 ")
    assert "secret" not in caplog.text


@pytest.mark.parametrize("given", ["", "two words", "x" * 129, "new\tline", "é"], ids=ascii)
def test_a_request_id_that_is_none_is_replaced(http: TestClient, given: str) -> None:
    reply = http.get("/health", headers={"X-Request-Id": given.encode()})  # type: ignore[dict-item]

    assert reply.headers["X-Request-Id"] not in ("", given)


MEANT = {
    "//v1/rerank": "/v1/rerank",
    "/v1/rerank/": "/v1/rerank",
    "/v2//rerank//": "/v2/rerank",
    "/v1/v2/rerank": "/v2/rerank",
    "/v1/v1/rerank": "/v1/rerank",
    "/v1/rerank/rerank": "/rerank",
    "/v1/rerank/v2/rerank": "/v2/rerank",
    "/rerank/v1/rerank": "/v1/rerank",
    "/v1/v1/models": "/v1/models",
    "/v1/rerank/batch": "/v1/rerank/batch",
    "/v1//jobs/": "/v1/jobs",
    "//": "/",
    "/v3/rerank": "-",
}


@pytest.mark.parametrize(("path", "route"), MEANT.items(), ids=MEANT)
def test_a_base_url_may_have_at_its_end_what_clients_put_there(
    http: TestClient, caplog: pytest.LogCaptureFixture, path: str, route: str
) -> None:
    with caplog.at_level(logging.INFO, "rerankq.http"):
        http.request("OPTIONS", f"http://127.0.0.1:8787{path}")

    assert caplog.messages[0].split()[1] == route


def test_a_body_over_the_limit_is_refused_with_or_without_a_declared_length(face: Face) -> None:
    http = face(http_max_body_bytes=2048)

    declared = http.post("/v1/rerank", content=b"x" * 2049)
    streamed = http.post("/v1/rerank", content=(b"x" * 100 for _ in range(30)))

    assert (declared.status_code, streamed.status_code) == (413, 413)


def test_a_compressed_body_is_refused_as_unread(http: TestClient) -> None:
    reply = http.post("/v1/rerank", content=b"x", headers={"Content-Encoding": "gzip"})

    assert reply.status_code == 415
    assert reply.headers["Accept-Encoding"] == "identity"


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "soon", ""])
def test_a_wait_that_is_none_is_refused(http: TestClient, seconds: str) -> None:
    reply = http.post("/v1/rerank", json=ASKED, headers={"X-Timeout-Seconds": seconds})

    assert reply.status_code == 422
    assert reply.json()["error"]["param"] == "X-Timeout-Seconds"


@pytest.mark.parametrize(("given", "seconds"), [(None, 25), ("3.5", 3.5), ("1e9", 300)], ids=str)
def test_the_wait_is_the_jobs_deadline(
    http: TestClient, fake: AsyncFakeRerankClient, given: str | None, seconds: float
) -> None:
    http.post("/v1/rerank", json=ASKED, headers={} if given is None else {"X-Timeout-Seconds": given})

    deadline = fake.calls[0].deadline
    assert deadline is not None
    assert deadline - time.time() == pytest.approx(seconds, abs=5)


def test_settings_show_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    from rerankq.contract.setting_sources import effective

    monkeypatch.setitem(os.environ, "RERANKQ_HTTP_KEYS", "secret")

    assert effective(HttpSettings.load())["RERANKQ_HTTP_KEYS"] == {"value": "***", "source": "environment"}


def test_a_place_that_nobody_leaves_is_not_given_twice(face: Face) -> None:
    http = face(http_max_waiting=1)
    service = http.app.state.service  # type: ignore[attr-defined]

    with service.place():
        full = http.post("/v1/rerank", json=ASKED)
        health = http.get("/health")
    after = http.post("/v1/rerank", json=ASKED)

    assert (full.status_code, health.status_code, after.status_code) == (429, 200, 200)
    assert full.headers["Retry-After"] == "1"


def test_many_large_bodies_at_once_are_more_than_a_process_holds(face: Face) -> None:
    http = face(http_max_body_bytes=2048)
    service = http.app.state.service  # type: ignore[attr-defined]

    service.hold(8 * 2048 - 10)
    full = http.post("/v1/rerank", json=ASKED)
    service.held_bytes = 0
    after = http.post("/v1/rerank", json=ASKED)

    assert (full.status_code, after.status_code) == (429, 200)
    assert service.held_bytes == 0
