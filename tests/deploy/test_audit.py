"""`make audit` says what is known, and that nobody knows where the advisory service gave no answer."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.compose_rules import ROOT

SOUND = {"name": "anyio", "version": "4.16.0", "vulns": []}
HOLE = {"id": "PYSEC-1", "fix_versions": ["4.17"], "description": "bad"}
UNKNOWN = {"name": "torch", "skip_reason": "Dependency not found on PyPI"}


def audited(tmp_path: Path, pins: list[dict[str, Any]] | None) -> subprocess.CompletedProcess[str]:
    """The program, with somebody in pip-audit's place who finds this; None: who is not answered."""
    (tmp_path / "cyclonedx_py.py").touch()
    report = f"print({json.dumps({'dependencies': pins})!r})"
    trace = 'raise ConnectionError("pypi.org: no way")'
    (tmp_path / "pip_audit.py").write_text(trace if pins is None else report)
    program = [sys.executable, str(ROOT / "deploy" / "audit.py"), sys.executable]
    path = {**os.environ, "PYTHONPATH": str(tmp_path)}
    return subprocess.run(program, env=path, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("pins", "code", "said"),
    [
        ([SOUND], 0, "no known vulnerability in 1 pins"),
        ([SOUND, {**SOUND, "vulns": [HOLE]}, UNKNOWN], 1, "anyio 4.16.0: PYSEC-1, mended in 4.17"),
        (
            [UNKNOWN, {**SOUND, "vulns": [HOLE]}],
            1,
            "nobody knows: it knows nothing of 1 of 2 pins, torch the first",
        ),
        ([SOUND, UNKNOWN], 69, "nobody knows: it knows nothing of 1 of 2 pins, torch the first"),
        (None, 69, "nobody knows: ConnectionError: pypi.org: no way"),
    ],
    ids=["sound", "vulnerable", "of the others nothing is known", "unknown", "unreachable"],
)
def test_it_says_what_is_known(
    pins: list[dict[str, Any]] | None, code: int, said: str, tmp_path: Path
) -> None:
    done = audited(tmp_path, pins)

    assert (done.returncode, said in done.stdout + done.stderr) == (code, True), done
    assert "Traceback" not in done.stderr
