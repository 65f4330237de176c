"""The server on a real socket: who hangs up, who dawdles, and how it stops."""

import contextlib
import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis as redis_py
import uvicorn

from rerankq.contract import keys
from rerankq.contract.heartbeats import Heartbeats, WorkerStatus
from rerankq.contract.messages import LANES
from rerankq.http import HttpSettings, bodies, server
from rerankq.local.redis_server import free_port
from tests.redis_server import RedisServer
from tests.service import Service

LANE = "rerankq.interactive"
MANY = 2_000  # at 2 ms each

Start = Callable[..., int]


@pytest.fixture
def redis(redis_server: RedisServer) -> Iterator[redis_py.Redis]:
    """An empty Redis where a worker says that it lives; nobody takes a job."""
    with redis_server.client(decode_responses=True) as client, redis_server.client() as told:
        client.flushall()
        Heartbeats(told).tell(WorkerStatus(name="w@h", state="ready", lanes=LANES))
        yield client


@pytest.fixture
def start(redis_server: RedisServer) -> Iterator[Start]:
    """Serve in a thread of this process; tells the port."""
    running: list[tuple[uvicorn.Server, threading.Thread]] = []

    def _start(**settings: object) -> int:
        told = {"broker_url": redis_server.url, "redis_timeout_seconds": 5.0, **settings}
        made = uvicorn.Server(server.configured(HttpSettings.load(**told)))
        listener = socket.create_server(("127.0.0.1", 0))
        thread = threading.Thread(target=made.run, kwargs={"sockets": [listener]})
        thread.start()
        running.append((made, thread))
        return listener.getsockname()[1]

    yield _start
    for made, thread in running:
        made.should_exit = True
        thread.join()


def post(body: bytes, length: int | None = None, path: str = "/v1/rerank") -> bytes:
    declared = len(body) if length is None else length
    return f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {declared}\r\n\r\n".encode() + body


def asked(query: str, documents: int = 1) -> bytes:
    return json.dumps({"query": query, "documents": [f"d{index}" for index in range(documents)]}).encode()


@contextmanager
def connected(port: int, sent: bytes) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(sent)
        yield connection


def answer(connection: socket.socket) -> tuple[int, bytes]:
    """The status, and all that came."""
    got = b""
    while b"\r\n\r\n" not in got or (b"}" not in got and b"content-length: 0" not in got):
        part = connection.recv(65536)
        if not part:
            break
        got += part
    return int(got.split()[1]) if got else 0, got


def wait_until(is_true: Callable[[], object]) -> None:
    give_up_at = time.monotonic() + 60
    while not is_true():
        assert time.monotonic() < give_up_at, "not true within 60 s"
        time.sleep(0.02)


def wanted(redis: redis_py.Redis) -> list[str]:
    """Ids of jobs on the lane that nobody called off."""
    ids = [json.loads(message)["headers"]["id"] for message in redis.lrange(LANE, 0, -1)]
    return [job_id for job_id in ids if not redis.exists(keys.cancel(job_id))]


def test_a_caller_who_hangs_up_while_waiting_calls_its_job_off(start: Start, redis: redis_py.Redis) -> None:
    with connected(start(), post(asked("q"))):
        wait_until(lambda: wanted(redis))

    wait_until(lambda: not wanted(redis))
    assert redis.llen(LANE) == 1


def test_a_caller_who_hangs_up_while_sending_leaves_its_place(start: Start, redis: redis_py.Redis) -> None:
    port = start(http_max_waiting=1, http_timeout_seconds=0.1)
    with connected(port, post(b"{", length=1000)):
        wait_until(lambda: ask(port)[0] == 429)

    wait_until(lambda: ask(port)[0] != 429)
    assert wanted(redis) == []


def test_a_body_that_dawdles_is_refused_and_leaves_its_place(
    start: Start, redis: redis_py.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "ARRIVES_WITHIN_SECONDS", 0.2)
    port = start(http_max_waiting=1)

    with connected(port, post(b"{", length=1000)) as dawdling:
        status, told = answer(dawdling)

    assert status == 408
    assert b"connection: close" in told
    assert ask(port, b"{")[0] == 400


def test_whoever_offers_another_protocol_is_answered_in_this_one(start: Start) -> None:
    offer = (
        b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAA\r\nContent-Length"
    )
    body = b'{"query": "q", "documents": []}'
    with connected(start(), b"") as java:
        for _ in range(2):
            java.sendall(post(body).replace(b"Content-Length", offer))
            assert b"documents: list of documents must not be empty" in answer(java)[1]


@pytest.mark.parametrize(
    "sent",
    [b"GET /health HTTP/1.1\r\nX: " + b"x" * 300_000, b"GET /" + b"x" * 300_000, b"X: y\r\n" * 50_000],
    ids=["a header", "a path", "no request"],
)
def test_headers_without_end_are_refused(start: Start, sent: bytes) -> None:
    hung_up = contextlib.suppress(BrokenPipeError, ConnectionResetError)  # while we send
    with connected(start(), b"") as endless, hung_up:
        endless.sendall(sent)
        assert answer(endless)[0] == 400


def test_headers_that_dawdle_are_hung_up_on(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HEAD_WITHIN_SECONDS", 0.2)
    port = start()

    with connected(port, b"") as silent, connected(port, b"GET /health HT") as slow:
        assert (silent.recv(100), slow.recv(100)) == (b"", b"")


def test_a_second_request_on_a_connection_has_as_much_time_as_the_first(
    start: Start, redis: redis_py.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "HEAD_WITHIN_SECONDS", 0.5)
    with connected(start(), post(b"{")) as connection:
        first, _ = answer(connection)
        connection.sendall(post(b"{"))
        second, _ = answer(connection)
        connection.sendall(b"POST /v1/re")
        left = connection.recv(100)

    assert (first, second, left) == (400, 400, b"")


def test_jobs_that_do_not_finish_when_it_stops_are_called_off_and_their_callers_told(
    redis_server: RedisServer, redis: redis_py.Redis, monkeypatch: pytest.MonkeyPatch, start: Start
) -> None:
    monkeypatch.setattr(server, "LEAVE_SECONDS", 0)
    made = uvicorn.Server(
        server.configured(HttpSettings.load(broker_url=redis_server.url, redis_timeout_seconds=5))
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=made.run, kwargs={"sockets": [listener]})
        thread.start()
        with connected(listener.getsockname()[1], post(asked("q"))) as connection:
            wait_until(lambda: wanted(redis))
            made.should_exit = True
            status, told = answer(connection)
            thread.join()

    assert status == 503
    assert b"retry-after" in told
    assert wanted(redis) == []


def test_where_no_redis_answers_it_serves_and_says_so(start: Start) -> None:
    port = start(broker_url="redis://127.0.0.1:1/0", redis_timeout_seconds=0.5)

    health, rerank = ask(port, path="/health"), ask(port)

    assert (health[0], rerank[0]) == (503, 503)
    assert b"127.0.0.1" not in rerank[1]


def ask(port: int, body: bytes | None = None, path: str = "/v1/rerank") -> tuple[int, bytes]:
    sent = (
        post(asked("q") if body is None else body)
        if path != "/health"
        else b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    )
    with connected(port, sent) as connection:
        return answer(connection)


@contextmanager
def serving(service: Service) -> Iterator[tuple["subprocess.Popen[str]", int]]:
    """`rerankq serve` as it is run, and its port."""
    command = [sys.executable, "-m", "rerankq.cli", "serve", "--port", "0"]
    environment = {**service.environment, "RERANKQ_REDIS_TIMEOUT_SECONDS": "5", "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            told = process.stdout.readline()
            yield process, int(told.split("http://127.0.0.1:")[1].split()[0])
        finally:
            process.kill()


def test_what_nobody_waits_for_any_more_is_not_scored_to_its_end(witnessed: Service) -> None:
    scored, begun = rows_scored(witnessed), rows_begun(witnessed)
    with serving(witnessed) as (_, port):
        with connected(port, post(asked("left", MANY))):
            witnessed.wait_until(lambda: rows_begun(witnessed) > begun)
        witnessed.wait_until(lambda: all(worker.state == "ready" for worker in witnessed.client.workers()))
        witnessed.client.rerank("after", ["a"])

    assert rows_scored(witnessed) - scored < MANY
    assert witnessed.client.lanes()["interactive"] == 0


def rows_scored(service: Service) -> int:
    return sum(rows.total() for rows in service.testimony().scored.values())


def rows_begun(service: Service) -> int:
    return sum(rows.total() for rows in service.testimony().begun.values())


def test_told_to_stop_it_answers_what_is_under_way_takes_nothing_new_and_ends_well(
    witnessed: Service,
) -> None:
    before = len(witnessed.testimony().begun)
    with serving(witnessed) as (process, port):
        with connected(port, post(asked("last", 300))) as under_way:
            witnessed.wait_until(lambda: len(witnessed.testimony().begun) > before)
            process.send_signal(signal.SIGTERM)
            wait_until(lambda: not is_open(port))
            status, _ = answer(under_way)
        _, log = process.communicate(timeout=30)

    assert status == 200
    assert process.returncode == 0
    assert "POST /v1/rerank 200" in log
    assert "Traceback" not in log


def test_it_tells_its_stacks_and_a_log_that_nobody_reads_does_not_stop_it(witnessed: Service) -> None:
    with serving(witnessed) as (process, port):
        assert process.stderr is not None
        fcntl.fcntl(process.stderr, fcntl.F_SETPIPE_SZ, 4096)
        process.send_signal(signal.SIGUSR1)
        for _ in range(100):  # of which the pipe takes half
            assert ask(port, path="/health")[0] == 200
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=30)

    lines = log.splitlines()
    assert all(re.match(r"\d{4}-\S+Z [A-Z]+ http: ", line) for line in lines)
    assert [line for line in lines if "stack of a thread" in line]
    assert len([line for line in lines if "GET /health 200" in line]) == 100
    assert process.returncode == 0


def test_where_stdout_is_no_terminal_every_line_is_a_record(witnessed: Service) -> None:
    """The address, and why it ends, too: a container joins both streams."""
    told = {**witnessed.environment, "RERANKQ_LOG": "json"}
    with serving(witnessed) as (_, port):
        command = [sys.executable, "-m", "rerankq.cli", "serve", "--port", str(port)]
        refused = subprocess.run(command, env=told, capture_output=True, text=True)
    with subprocess.Popen(command, env=told, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        assert ask(port, b"{")[0] == 400
        process.send_signal(signal.SIGTERM)
        rest = [json.loads(line) for line in process.stdout]

    assert (
        first["message"]
        == f"rerankq answers programs of this machine at http://127.0.0.1:{port} until Ctrl-C"
    )
    assert rest[0]["message"].startswith("POST /v1/rerank 400")
    assert (refused.returncode, refused.stdout) == (3, "")
    assert f"port {port} of 127.0.0.1 is taken" in json.loads(refused.stderr)["message"]


@pytest.mark.parametrize("how", ["read by nobody", "gone", "closed", "full"])
def test_it_serves_wherever_its_address_cannot_be_told(how: str, redis_server: RedisServer) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while how == "read by nobody":
            os.write(writer, b"x" * 4096)
    os.set_blocking(writer, True)
    if how == "gone":
        os.close(reader)
    port, where = free_port(), {"closed": ">&-", "full": ">/dev/full"}.get(how, "")
    command = f"exec {sys.executable} -m rerankq.cli serve --port {port} {where}"
    told = {**os.environ, "RERANKQ_BROKER_URL": redis_server.url}
    with subprocess.Popen(["sh", "-c", command], env=told, stdout=writer, stderr=subprocess.PIPE) as process:
        os.close(writer)
        wait_until(lambda: process.poll() is not None or is_open(port))
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=30)
    if how != "gone":
        os.close(reader)

    assert (process.returncode, log) == (0, b"")


TOLD_TO_STOP_AS_IT_BEGINS = """
import os, signal, uvicorn
from rerankq.http.server import serve
from rerankq.http.settings import HttpSettings

their_own = uvicorn.Config.get_loop_factory

def at_that_moment(config):
    os.kill(os.getpid(), signal.SIGTERM)
    return their_own(config)

uvicorn.Config.get_loop_factory = at_that_moment
serve(HttpSettings.load(http_port=0), lambda url: None)
"""


def test_a_face_that_is_told_to_stop_as_it_begins_ends_in_order(redis_server: RedisServer) -> None:
    told = {**os.environ, "RERANKQ_BROKER_URL": redis_server.url}
    done = subprocess.run(
        [sys.executable, "-c", TOLD_TO_STOP_AS_IT_BEGINS], env=told, capture_output=True, timeout=60
    )

    assert (done.returncode, done.stderr) == (0, b"")


def test_no_connection_gets_the_log_where_stderr_is_closed(redis_server: RedisServer) -> None:
    port = free_port()
    command = f"exec {sys.executable} -m rerankq.cli serve --port {port} >/dev/null 2>&-"
    told = {**os.environ, "RERANKQ_BROKER_URL": redis_server.url}
    with subprocess.Popen(["sh", "-c", command], env=told) as process:
        wait_until(lambda: process.poll() is not None or is_open(port))
        stderr = str(Path(f"/proc/{process.pid}/fd/2").readlink())
        process.terminate()

    assert stderr == os.devnull


def is_open(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True
