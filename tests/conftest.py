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

# What somebody has started with `rerankq up` is not for the tests to find.
os.environ["XDG_RUNTIME_DIR"] = tempfile.mkdtemp(prefix="rerankq-tests-")
atexit.register(shutil.rmtree, os.environ["XDG_RUNTIME_DIR"], ignore_errors=True)

# A shell's background jobs ignore Ctrl-C, those of nohup a closed terminal, and so would every program started here.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


IDLE_SERVICE = ["client/test_event_loops.py", "testing/test_fakes.py", "worker/test_flower.py"]
FAULTS = ["control", "deaths", "stopping", "time"]
OTHER_FAULTS = ["engine_faults", "hostile_input", "lanes_and_copies", "refusals", "vanished"]
TOGETHER = [
    [*IDLE_SERVICE, "neighbours/test_stock_celery.py", "neighbours/test_unlike_celery.py"],
    [f"faults/test_{name}.py" for name in FAULTS],
    [f"faults/test_{name}.py" for name in OTHER_FAULTS],
    [f"http/test_{name}.py" for name in ("batch", "documents", "jobs", "server")],
    ["engine/*", "small_model/*", "process/test_commands.py"],
]
"""Files that ask one session's service, or load transformers' models: in one process, or each would pay for it."""
WITH_TORCH = TOGETHER[-1]


def _is_of(group: list[str], path: str) -> bool:
    return any(fnmatch(path, pattern) for pattern in group)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Of a run's processes one alone reads what imports torch, unless the command names it."""
    process = getattr(config, "workerinput", {"workerid": "gw0", "workercount": 1})
    is_first_or_a_substitute = not 0 < int(process["workerid"][2:]) < process["workercount"]
    if is_first_or_a_substitute or not collection_path.is_relative_to(REPOSITORY / "tests"):
        return None
    here = collection_path.relative_to(REPOSITORY / "tests").as_posix()
    return _is_of(WITH_TORCH, here) or _is_of(WITH_TORCH, f"{here}/") or None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs torch, then each room's files spread over the run: what waits beside what computes."""
    rooms: dict[Path, list[Path]] = {}
    for path in dict.fromkeys(item.path for item in items):
        rooms.setdefault(path.parent, []).append(path)
    place = {path: at / len(files) for files in rooms.values() for at, path in enumerate(files)}
    place |= {path: -1 for path in place if _is_of(WITH_TORCH, f"{path.parent.name}/{path.name}")}
    items.sort(key=lambda item: place[item.path])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file in one process, and what belongs together in the same; what needs torch in the one that has read it."""
    from xdist.scheduler import LoadScopeScheduling

    class Together(LoadScopeScheduling):
        def schedule(self) -> None:
            if self.collection is None:
                largest_first = sorted(self.registered_collections.items(), key=lambda it: -len(it[1]))
                self.registered_collections = dict(largest_first)
                self.assigned_work = {node: self.assigned_work[node] for node, _ in largest_first}
            super().schedule()

        def _check_nodes_have_same_collection(self) -> bool:
            return True

        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            here = file.removeprefix("tests/")
            return next((str(group) for group in TOGETHER if _is_of(group, here)), file)

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
        if name.startswith("RERANKQ_") and name not in ("RERANKQ_SHARED", "RERANKQ_CACHE_DIR"):
            monkeypatch.delenv(name)
