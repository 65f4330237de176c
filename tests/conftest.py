"""What every room's tests share: a real Redis, and the data that nobody here wrote."""

import atexit
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.redis_server import RedisServer

if TYPE_CHECKING:
    from tests.service import Service

REPOSITORY = Path(__file__).parent.parent

# Not in pyproject.toml, where it would demand pytest-timeout of a GPU host that runs the engine's tests alone.
os.environ.setdefault("PYTEST_TIMEOUT", "180")

# Hundreds of processes start here: where nothing may be cached, each would compile our code anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Half a second, as a web request has, is what a machine full of tests may need; who tests that takes it back.
os.environ["RERANKQ_REDIS_TIMEOUT_SECONDS"] = "5"
OURS = ("RERANKQ_SHARED", "RERANKQ_CACHE_DIR", "RERANKQ_REDIS_TIMEOUT_SECONDS")

# What somebody has started with `rerankq up` is not for the tests to find.
os.environ["XDG_RUNTIME_DIR"] = tempfile.mkdtemp(prefix="rerankq-tests-")
atexit.register(shutil.rmtree, os.environ["XDG_RUNTIME_DIR"], ignore_errors=True)

# A shell's background jobs ignore Ctrl-C, those of nohup a closed terminal, and so would every program started here.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


IDLE_SERVICE = [
    "client/test_canary.py",
    "http/test_canaries.py",
    "client/test_event_loops.py",
    "client/test_thread_connections.py",
    "testing/test_fakes.py",
    "worker/test_flower.py",
]
FAULTS = ["control", "deaths", "stopping", "time"]
OTHER_FAULTS = ["engine_faults", "refusals", "vanished"]
TOGETHER = [
    [*IDLE_SERVICE, "neighbours/test_stock_celery.py", "neighbours/test_unlike_celery.py"],
    ["faults/test_in_short.py", "faults/test_hostile_input.py"],
    [f"faults/long/test_{name}.py" for name in FAULTS],
    [f"faults/long/test_{name}.py" for name in OTHER_FAULTS],
    [f"http/test_{name}.py" for name in ("batch", "documents", "jobs", "server")],
    ["engine/*", "small_model/*", "process/test_commands.py", "worker/test_sentence_transformers.py"],
    ["cli/test_commands.py", "cli/test_doctor.py", "cli/test_readme.py"],
]
"""Files that ask one session's service, or load transformers' models: in one process, or each would pay for it."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Spread each room's files over the run: what waits for real time beside what computes."""
    rooms: dict[Path, list[Path]] = {}
    for path in dict.fromkeys(item.path for item in items):
        rooms.setdefault(path.parent, []).append(path)
    place = {path: at / len(files) for files in rooms.values() for at, path in enumerate(files)}
    items.sort(key=lambda item: place[item.path])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file in one process, and what belongs together in the same."""
    from xdist.scheduler import LoadScopeScheduling

    class Together(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            here = file.removeprefix("tests/")
            return next((str(group) for group in TOGETHER if any(fnmatch(here, it) for it in group)), file)

    return Together(config, log)


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


@pytest.fixture(scope="session")
def idle_service() -> "Iterator[Service]":
    """A whole service whose engine scores at once, for whoever leaves it as it was."""
    from tests.service import Service

    with Service(engine="rerankq_worker.doubles:noop") as running:
        yield running


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's own RERANKQ_ variables must not decide a test."""
    for name in list(os.environ):
        if name.startswith("RERANKQ_") and name not in OURS:
            monkeypatch.delenv(name)


@pytest.fixture
def _as_patient_as_a_web_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients wait for Redis as long as their default says."""
    monkeypatch.delenv("RERANKQ_REDIS_TIMEOUT_SECONDS")
