"""What `rerankq bench` tells, and what is left of it when it is stopped."""

import json
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from rerankq.cli import bench
from rerankq.cli.app import app
from rerankq.local import worker_program
from rerankq.local.failure import Unavailable
from tests.cli.conftest import Command

ENGINE = {
    "model": "m",
    "revision": "sha256:12",
    "device": "NVIDIA H100",
    "dtype": "fp16",
    "engine": "packed",
    "max_batch_pairs": 32,
    "max_length_tokens": 512,
}


def told_then_stopped(monkeypatch: pytest.MonkeyPatch, *told: dict[str, Any]) -> None:
    """An engine of which this much is told before Ctrl-C."""

    @contextmanager
    def no_stack(*_: Any) -> Generator[Any]:
        yield SimpleNamespace(worker_environment=dict)

    def lines_of(*_: str, environment: Mapping[str, str]) -> Iterator[str]:
        assert environment == {}
        yield from map(json.dumps, told)
        raise KeyboardInterrupt

    monkeypatch.setattr(bench, "local_stack", no_stack)
    monkeypatch.setattr(worker_program, "lines_of", lines_of)


def test_a_device_is_measured_from_its_engine_to_the_number_that_a_load_needs(rerankq_alone: Command) -> None:
    rerankq_alone.environment |= {
        "RERANKQ_ENGINE_FACTORY": "rerankq_worker.doubles:slow?batch_ms=1&pair_ms=2",
        "RERANKQ_MAX_LENGTH_TOKENS": "300",
    }

    told = json.loads(rerankq_alone.run("bench", "--seconds", "5", "--within", "60", "--json").out)

    assert told["complete"]
    assert [row["length"] for row in told["lengths"]] == [64, 128, 256, 300]
    assert all(row["pairs_per_second"] > 0 and 0 < row["busy"] <= 1 for row in told["lengths"])
    assert [row["documents"] for row in told["latency"]] == [10, 50, 100]
    assert all(
        row["asked"] and row["worst_seconds"] >= row["p99_seconds"] >= row["p50_seconds"]
        for row in told["latency"]
    )
    assert told["queue"]["pairs_per_second"] > 0
    assert min(told["memory"]["engine_bytes"], told["memory"]["workers_bytes"]) > 0
    assert told["sizing"]["fleet"]["devices"] >= 1


def test_ctrl_c_gives_what_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    told_then_stopped(
        monkeypatch, {"engine": ENGINE}, {"length": 256, "pairs_per_second": 1000, "busy": 0.9, "pairs": 9}
    )

    done = CliRunner().invoke(app, ["bench"])

    assert done.exit_code == 130
    assert (
        "this device    1,000 pairs/s at 256 tokens (the engine alone); 1 M jobs of 50 = 13.9 hours"
        in done.output
    )
    assert "10 queries/s of 50 documents within 500 ms: 1 device, 50% busy" in done.output
    assert "stopped" in done.output


def test_ctrl_c_before_anything_is_known_gives_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    told_then_stopped(monkeypatch)

    done = CliRunner().invoke(app, ["bench", "--json"])

    assert (done.exit_code, done.stdout) == (130, "")


def test_without_the_worker_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_program, "_ENGINE", ("a_library_that_is_not_here",))

    done = CliRunner().invoke(app, ["bench"])

    assert isinstance(done.exception, Unavailable)
    assert "pip install 'rerankq[worker,local]'" in str(done.exception)


def test_a_length_that_the_worker_does_not_read_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    told_then_stopped(monkeypatch, {"engine": ENGINE})

    done = CliRunner().invoke(app, ["bench", "--length", "513"])

    assert str(done.exception) == (
        "expected --length of at most 512, which is what the worker reads, got 513; "
        "RERANKQ_MAX_LENGTH_TOKENS may allow more"
    )


@pytest.mark.parametrize(
    ("device", "environment", "left"),
    [
        pytest.param("1", {}, {"RERANKQ_DEVICES": "1"}, id="the one that is asked for"),
        pytest.param(None, {"RERANKQ_DEVICES": "2,3"}, {"RERANKQ_DEVICES": "2"}, id="the settings' first"),
        pytest.param(
            None, {}, {"RERANKQ_DEVICES": "auto", "CUDA_VISIBLE_DEVICES": "0"}, id="the host's first"
        ),
        pytest.param(
            *("auto", {"CUDA_VISIBLE_DEVICES": "4,5"}),
            {"RERANKQ_DEVICES": "auto", "CUDA_VISIBLE_DEVICES": "4"},
            id="the first that may be seen",
        ),
    ],
)
def test_one_device_is_measured(
    device: str | None, environment: dict[str, str], left: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench.os, "environ", environment)

    assert bench.one_device(device) == left
