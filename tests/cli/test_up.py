"""What `rerankq up` says when it is up, what its Flower shows, and who is answered at its HTTP address."""

import json
import signal
import subprocess
import urllib.request

import pytest

from tests.cli.conftest import Command
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


@pytest.fixture
def rerankq(rerankq_alone: Command) -> Command:
    """With an engine that takes its time, so that workers beat before it is there."""
    rerankq_alone.environment["RERANKQ_ENGINE_FACTORY"] = "rerankq_worker.doubles:slow?load_ms=1500"
    rerankq_alone.environment["PYTHONUNBUFFERED"] = "1"
    return rerankq_alone


def test_it_says_what_it_serves_and_is_found_by_whoever_names_no_redis_for_as_long_as_it_is_up(
    rerankq: Command,
) -> None:
    del rerankq.environment["RERANKQ_BROKER_URL"]
    with rerankq.start("up", "--no-flower") as process:
        told = addresses(process)
        found = json.loads(rerankq.run("settings", "--json").out)["client"]["RERANKQ_BROKER_URL"]
        answer = json.loads(rerankq.run("rerank", "q", "d", "--json").out)
        by_http = json.loads(_get(f"{told['http']}/v1/rerank", b'{"query": "q", "documents": ["d"]}'))
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    left = json.loads(rerankq.run("settings", "--json").out)["client"]["RERANKQ_BROKER_URL"]

    assert found["source"] == "a running `rerankq up`"
    assert found["value"].split("@")[1] == told["broker"].split("@")[1]
    assert told["worker"] == "cpu0 none, model double 0"
    assert answer["scored"] == by_http["scored"] == 1
    with pytest.raises(OSError, match="refused"):
        _get(told["http"])
    assert left["source"] == "default"


def test_flower_shows_no_button_that_could_not_work(rerankq: Command) -> None:
    port = free_port()
    with rerankq.start("up", "--no-http", "--port", str(port)) as process:
        found = addresses(process)
        flower = found["flower"]
        try:
            wait_until(lambda: _names(flower) != set())
            page = _get(f"{flower}/worker/{min(_names(flower))}")
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)

    assert found["worker"] == "cpu0 none, model double 0"  # at this start as well
    assert found["http"] == "not running"
    assert "Worker details" in page
    assert "Shut Down" not in page


def _names(flower: str) -> set[str]:
    """The workers that Flower knows of."""
    try:
        return {worker["hostname"] for worker in json.loads(_get(f"{flower}/workers?json=1"))["data"]}
    except OSError:  # it has not opened its port yet
        return set()


def _get(url: str, body: bytes | None = None) -> str:
    with urllib.request.urlopen(url, body, timeout=10) as answer:
        return answer.read().decode()
