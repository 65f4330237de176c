"""The simulation beside real services, for a moment: what is counted. Times are the benchmark's to judge."""

import json
import subprocess
import sys
from typing import Any

import pytest

from benchmarks.simulation.beside_service import CASES, DOCUMENTS
from tests.conftest import REPOSITORY

SECONDS = 4


@pytest.fixture(scope="module")
def found() -> dict[str, dict[str, Any]]:
    """By case, what the command found, and its exit code under the name `code`."""
    command = [sys.executable, "-m", "benchmarks.simulation.beside_service", "--seconds", str(SECONDS)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.stdout, done.stderr
    rows = json.loads(done.stdout.splitlines()[-1])["found"]
    assert done.returncode == int(any(row["differences"] for row in rows)), done.stderr
    return {row["case"]: row for row in rows}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_all_that_is_asked_is_answered_in_both_and_scored_once(
    found: dict[str, dict[str, Any]], case: Any
) -> None:
    row = found[case.name]

    for side in (row["service"], row["simulation"]):
        assert side["answered"] == row["jobs"] > 0
        assert len(side["pairs"]) == case.devices
        asked = row["jobs"] * DOCUMENTS
        assert sum(side["pairs"]) == asked if not case.bulk_jobs_a_second else sum(side["pairs"]) >= asked
        assert all(side["pairs"]), "a device has nothing to do"
