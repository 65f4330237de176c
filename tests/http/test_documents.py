"""The requests of docs/http.md and the README, as they stand, against a real service."""

import json
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPOSITORY
from tests.http.test_server import serving
from tests.service import Service

HTTP = REPOSITORY / "docs" / "http.md"
_ADDRESS = "http://127.0.0.1:8787"
_PAIR = re.compile(r"^```sh\n(curl .*?)^```\n(?:\n```json\n(.*?)^```)?", re.MULTILINE | re.DOTALL)


def pairs() -> list[tuple[str, str]]:
    """Each request, and what stands below it."""
    texts = [file.read_text(encoding="utf-8") for file in (HTTP, REPOSITORY / "README.md")]
    return [pair for text in texts for pair in _PAIR.findall(text)]


@pytest.fixture(scope="module")
def address(witnessed: Service) -> Iterator[str]:
    with serving(witnessed) as (_, port):
        yield f"http://127.0.0.1:{port}"


@pytest.mark.parametrize(("request_line", "shown"), pairs(), ids=range(len(pairs())))
def test_a_documented_request_is_answered_as_it_says(address: str, request_line: str, shown: str) -> None:
    done = subprocess.run(
        ["sh", "-c", request_line.replace(_ADDRESS, address)], capture_output=True, text=True, check=True
    )

    told = json.loads(done.stdout)
    assert shape_of(json.loads(shown or "{}")) <= shape_of(told)


def test_the_documented_job_is_accepted_and_its_answer_waited_for(address: str) -> None:
    written = re.search(
        r"^```bash\n(curl .*?)^```", HTTP.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    assert written is not None

    done = subprocess.run(["sh", "-c", written[1].replace(_ADDRESS, address)], capture_output=True, text=True)

    assert "202 Accepted" in done.stdout
    assert '"state":"done"' in done.stdout


def test_the_documented_start_beyond_loopback_asks_for_the_key(tmp_path: Path) -> None:
    started = re.search(r"^```sh\n(mkdir.*?)^```", HTTP.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert started is not None
    command = started[1].replace("rerankq serve", f"exec {sys.executable} -u -m rerankq.cli serve --port 0")
    with subprocess.Popen(["sh", "-ec", command], cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            (address,) = re.findall(r"http://127\.0\.0\.1:\d+", process.stdout.readline())
            with pytest.raises(urllib.error.HTTPError, match="401"):
                urllib.request.urlopen(f"{address}/v1/models")
            key = (tmp_path / "secrets" / "rerankq_http_keys").read_text().strip()
            asked = urllib.request.Request(f"{address}/nowhere", headers={"Authorization": f"Bearer {key}"})
            with pytest.raises(urllib.error.HTTPError, match="404"):
                urllib.request.urlopen(asked)
        finally:
            process.terminate()


def shape_of(value: Any, of: str = "") -> set[str]:
    """Each key, with those that lead to it."""
    if isinstance(value, list):
        return {key for each in value for key in shape_of(each, f"{of}[]")}
    if isinstance(value, dict):
        return {of} | {key for name, each in value.items() for key in shape_of(each, f"{of}.{name}")}
    return {of}
