"""What is sent for `/`: the file as it is, under a policy that lets nothing else run. tests/neighbours opens it."""

import base64
import hashlib
import re
from importlib.resources import files

import pytest
from starlette.testclient import TestClient

from rerankq.http import create_app

HTML = files("rerankq.http").joinpath("page.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def http() -> TestClient:
    return TestClient(create_app(), base_url="http://127.0.0.1")


def test_the_page_is_the_file(http: TestClient) -> None:
    told = http.get("/")

    assert told.text == HTML
    assert told.headers["content-type"] == "text/html; charset=utf-8"


def test_its_policy_lets_the_files_own_blocks_run_and_nothing_else(http: TestClient) -> None:
    policy = dict(part.split(" ", 1) for part in http.get("/").headers["content-security-policy"].split("; "))

    for name in ("script", "style"):
        (block,) = re.findall(f"<{name}>(.*?)</{name}>", HTML, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(block.encode()).digest()).decode()
        assert policy.pop(f"{name}-src") == f"'sha256-{digest}'"
    assert policy == {
        "default-src": "'none'",
        "img-src": "data:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }


def test_it_is_not_sniffed_tells_nobody_where_it_was_read_and_is_asked_for_anew(http: TestClient) -> None:
    headers = http.get("/").headers

    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-cache"


def test_a_browser_that_has_it_is_told_so(http: TestClient) -> None:
    first = http.get("/")

    again = http.get("/", headers={"If-None-Match": f"W/{first.headers['etag']}"})

    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["content-security-policy"] == first.headers["content-security-policy"]


def test_nothing_in_it_comes_from_elsewhere_or_goes_by_a_string_that_is_run() -> None:
    addresses = set(re.findall(r"https?://[^\"'\s)]+", HTML))

    assert addresses == {"http://www.w3.org/2000/svg"}  # a name, which nobody loads
    assert not re.search(r"\b(src|srcset|action)=|@import|\burl\(|\son\w+=\"|style=\"", HTML)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", HTML)
