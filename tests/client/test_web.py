"""What errors mean to an HTTP caller: one table, which docs/web.md prints."""

import re

from rerankq import NoWorkers, QueueFull, RerankError
from rerankq.contract.errors import BY_NAME
from rerankq.web import http_status
from tests.conftest import REPOSITORY
from tests.web_examples import blocks

_ROW = re.compile(r"^\| ((?:`\w+`[^|]*)+) \|.*\| (\d{3}[^|]*) \|$", re.MULTILINE)


def documented() -> dict[str, int]:
    text = (REPOSITORY / "docs" / "web.md").read_text(encoding="utf-8")
    found: dict[str, int] = {}
    for names, codes in _ROW.findall(text):
        errors, statuses = re.findall(r"`(\w+)`", names), [int(code) for code in re.findall(r"\d{3}", codes)]
        errors = [name for name in errors if name in BY_NAME]
        found |= dict(zip(errors, statuses * len(errors) if len(statuses) == 1 else statuses, strict=False))
    return found


def test_the_documented_table_is_the_one_in_force_for_every_error():
    in_force = {name: http_status(kind("x"))[0] for name, kind in BY_NAME.items() if kind is not RerankError}

    assert documented() == in_force


def test_a_full_queue_says_when_to_come_back_in_whole_seconds():
    assert http_status(QueueFull("full", {"retry_after_seconds": 2.1})) == (429, {"Retry-After": "3"})
    assert http_status(QueueFull("full", {"retry_after_seconds": 0.0})) == (429, {"Retry-After": "1"})


def test_an_error_of_a_callers_own_counts_as_the_nearest_of_ours():
    class Elsewhere(NoWorkers):
        """Somebody's own."""

    assert http_status(Elsewhere("away")) == (503, {})
    assert http_status(RerankError("?")) == (500, {})


def test_the_documented_examples_use_the_table():
    telling = [block for block in blocks() if "import" in block and "RerankError" in block]

    assert len(telling) == 3  # FastAPI, Flask, Django
    assert all("http_status(error)" in block and "HTTPException" not in block for block in telling)
