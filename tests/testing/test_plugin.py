"""`rerankq.testing` in somebody's pytest: as docs/web.md has it, and nothing where nobody asked."""

import os
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

from tests.web_examples import write_examples


def python(*arguments: str, directory: Path) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_documented_tests_pass_in_a_run_where_warnings_are_errors(tmp_path: Path) -> None:
    write_examples(tmp_path)
    fixtures = "from rerankq.testing import FakeRerankClient\n" + (tmp_path / "conftest.py").read_text()
    (tmp_path / "conftest.py").write_text(fixtures)  # imported before pytest looks for plugins

    done = python("-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", directory=tmp_path)

    assert done.returncode == 0, done.stdout
    assert "3 passed" in done.stdout


def test_a_pytest_run_of_somebody_who_has_it_installed_sees_nothing_of_it() -> None:
    assert not [point for point in distribution("rerankq").entry_points if point.group == "pytest11"]


def test_the_fakes_need_no_pytest(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['pytest'] = None\n"
        "import rerankq.testing; rerankq.testing.FakeRerankClient().rerank('q', ['a'])"
    )

    assert python("-c", code, directory=tmp_path).returncode == 0
