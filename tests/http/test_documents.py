"""The requests of docs/http.md and the README, as they stand, against a real service."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from rerankq.local.stack import LocalStack
from tests.conftest import REPOSITORY

_ADDRESS = "http://127.0.0.1:8787"
_PAIR = re.compile(r"^```sh\n(curl .*?)^```\n(?:\n```json\n(.*?)^```)?", re.MULTILINE | re.DOTALL)


def pairs() -> list[tuple[str, str]]:
    """Each request, and what stands below it."""
    texts = [(REPOSITORY / name).read_text(encoding="utf-8") for name in ("docs/http.md", "README.md")]
    return [pair for text in texts for pair in _PAIR.findall(text)]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with LocalStack(model="small") as stack:
        served = stack.start_child("http", [sys.executable, "-m", "rerankq.cli", "serve", "--port", "0"])
        while not (told := re.search(r"http://127\.0\.0\.1:\d+", "\n".join(served.last_lines()))):
            assert served.exit_code is None, served.last_lines()
        yield told[0]


@pytest.mark.parametrize(("request_line", "shown"), pairs(), ids=range(len(pairs())))
def test_a_documented_request_is_answered_as_it_says(address: str, request_line: str, shown: str) -> None:
    done = subprocess.run(
        ["sh", "-c", request_line.replace(_ADDRESS, address)], capture_output=True, text=True, check=True
    )

    told = json.loads(done.stdout)
    assert shape_of(json.loads(shown or "{}")) <= shape_of(told)
    if isinstance(told, dict) and "results" in told:
        assert told["results"][0]["index"] == 1


def shape_of(value: Any, of: str = "") -> set[str]:
    """Each key, with those that lead to it."""
    if isinstance(value, list):
        return {key for each in value for key in shape_of(each, f"{of}[]")}
    if isinstance(value, dict):
        return {of} | {key for name, each in value.items() for key in shape_of(each, f"{of}.{name}")}
    return {of}
