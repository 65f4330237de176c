"""What `rerankq up` says when it is up, what its Flower shows, and who is answered at its HTTP address."""

import json
import signal
import subprocess
import urllib.request
from contextlib import nullcontext
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from rerankq.cli import up
from rerankq.cli.app import app
from tests.cli.conftest import Command, CommandInHere, plain_environment
from tests.cli.test_local_parts import wait_until
from tests.redis_server import free_port


def addresses(process: "subprocess.Popen[str]") -> dict[str, str]:
    """The lines that it prints once it is up, by their first word."""
    found: dict[str, str] = {}
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("In another terminal"):
            return found
        if line.startswith("  ") and len(line.split()) > 1:
            name, value = line.split(maxsplit=1)
            found[name] = value.strip()
    raise AssertionError(f"it ended before it was up: {process.stderr and process.stderr.read()}")


@dataclass(frozen=True, slots=True)
class Seen:
    """What was seen of one service while it was up, and once it had ended."""

    told: dict[str, str]
    found: dict[str, str]
    answer: dict[str, Any]
    by_http: dict[str, Any]
    flower_page: str
    left: dict[str, str]


@pytest.fixture(scope="module")
def seen() -> Seen:
    environment = plain_environment() | {
        # An engine that takes its time, so that workers beat before it is there.
        "RERANKQ_ENGINE_FACTORY": "rerankq_worker.doubles:slow?load_ms=1500",
        "PYTHONUNBUFFERED": "1",
    }
    here = CommandInHere(environment)
    with here.start("up", "--port", str(free_port())) as process:
        try:
            told = addresses(process)
            found = _broker(here)
            answer = json.loads(here.run("rerank", "q", "d", "--json").out)
            by_http = json.loads(_get(f"{told['http']}/v1/rerank", b'{"query": "q", "documents": ["d"]}'))
            wait_until(lambda: _names(told["flower"]) != set())
            page = _get(f"{told['flower']}/worker/{min(_names(told['flower']))}")
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)
    return Seen(told, found, answer, by_http, page, _broker(here))


def test_it_says_what_it_serves_and_is_found_by_whoever_names_no_redis(seen: Seen) -> None:
    assert seen.told["worker"] == "cpu0 none, model double 0"
    assert seen.found["source"] == "a running `rerankq up`"
    assert seen.found["value"].split("@")[1] == seen.told["broker"].split("@")[1]
    assert seen.answer["scored"] == seen.by_http["scored"] == 1


def test_once_it_is_ended_nobody_finds_it(seen: Seen) -> None:
    with pytest.raises(OSError, match="refused"):
        _get(seen.told["http"])
    assert seen.left["source"] == "default"


def test_flower_shows_no_button_that_could_not_work(seen: Seen) -> None:
    assert "Worker details" in seen.flower_page
    assert "Shut Down" not in seen.flower_page


@pytest.mark.parametrize(("absent", "there"), [("flower", "http"), ("http", "flower")])
def test_what_is_not_wanted_is_not_started_and_said_not_to_run(
    absent: str, there: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []
    stack = SimpleNamespace(broker_url="redis://127.0.0.1:1/0", directory="here")
    monkeypatch.setattr(up, "local_stack", lambda _: nullcontext(stack))
    monkeypatch.setattr(up, "announced", lambda _: nullcontext(True))
    monkeypatch.setattr(up, "_start_flower", lambda *_: started.append("flower"))
    monkeypatch.setattr(up, "_start_http", lambda *_: started.append("http"))
    worker = SimpleNamespace(device="cpu0", dtype="fp32", model="m", revision="1")
    monkeypatch.setattr(up, "_worker_in_service", lambda _: worker)
    monkeypatch.setattr(up, "_follow", lambda _: None)

    told = CliRunner().invoke(app, ["up", f"--no-{absent}"]).output

    lines = dict(line.split(maxsplit=1) for line in told.splitlines()[1:6])
    assert (started, lines[absent]) == ([there], "not running")
    assert lines[there].startswith("http://127.0.0.1:")


def _broker(rerankq: Command) -> dict[str, str]:
    """Which Redis a client takes that is told of none."""
    return json.loads(rerankq.run("settings", "--json").out)["client"]["RERANKQ_BROKER_URL"]


def _names(flower: str) -> set[str]:
    """The workers that Flower knows of."""
    try:
        return {worker["hostname"] for worker in json.loads(_get(f"{flower}/workers?json=1"))["data"]}
    except OSError:  # it has not opened its port yet
        return set()


def _get(url: str, body: bytes | None = None) -> str:
    with urllib.request.urlopen(url, body, timeout=10) as answer:
        return answer.read().decode()
