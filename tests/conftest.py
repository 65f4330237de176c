"""What every room's tests share: a real Redis, and the data that nobody here wrote."""

import atexit
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.redis_server import RedisServer

REPOSITORY = Path(__file__).parent.parent

# Not in pyproject.toml, where it would demand pytest-timeout of a GPU host that runs the engine's tests alone.
os.environ.setdefault("PYTEST_TIMEOUT", "180")

# Hundreds of processes start here: where nothing may be cached, each would compile our code anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# What somebody has started with `rerankq up` is not for the tests to find.
os.environ["XDG_RUNTIME_DIR"] = tempfile.mkdtemp(prefix="rerankq-tests-")
atexit.register(shutil.rmtree, os.environ["XDG_RUNTIME_DIR"], ignore_errors=True)

# A shell's background jobs ignore Ctrl-C, those of nohup a closed terminal, and so would every program started here.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Faults first: they wait for real time, in which others compute; at the end they would wait alone."""
    items.sort(key=lambda item: not item.path.is_relative_to(REPOSITORY / "tests" / "faults"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real rerank jobs and fixtures, kept beside the checkout; skips where they are absent."""
    shared = Path(os.environ.get("RERANKQ_SHARED", REPOSITORY.parent / "shared"))
    if not (shared / "data").is_dir():
        pytest.skip(f"the shared data is not here: {shared / 'data'}")
    return shared / "data"


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's own RERANKQ_ variables must not decide a test."""
    for name in list(os.environ):
        if name.startswith("RERANKQ_") and name not in ("RERANKQ_SHARED", "RERANKQ_CACHE_DIR"):
            monkeypatch.delenv(name)
