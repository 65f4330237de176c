"""What `rerankq doctor` says of a real Redis that was broken, and whether its cure, typed as printed, mends it."""

import os
import shlex
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import redis

from rerankq.contract.findings import Finding, exit_code
from rerankq.contract.redis_rights import PRODUCER, PRODUCER_CHANNELS, WORKER, WORKER_CHANNELS
from rerankq.doctor import of_redis
from rerankq.doctor.rights import questions, refused
from rerankq.settings import ClientSettings
from tests import small_disk
from tests.doctor.closed_directory import closed_to_us
from tests.doctor.following import PROGRAMS, follow, of
from tests.doctor.stand_ins import light_libraries
from tests.guarded_redis import GuardedRedis, password_of
from tests.redis_addresses import MASTER_NAME, self_signed, sentinel_for, tls_in_front_of, wait_until
from tests.redis_server import RedisServer, find_redis_server


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer(appendonly=True, bind=("127.0.0.1", "127.0.0.2")) as running:
        yield running


@pytest.fixture(scope="module")
def guarded() -> Iterator[GuardedRedis]:
    with GuardedRedis(appendonly="yes") as running:
        yield running


def look(url: str, *, serves_here: bool = True, **settings: object) -> list[Finding]:
    return list(of_redis.findings(ClientSettings(broker_url=url, **settings), serves_here))  # pyright: ignore[reportArgumentType]


def type_as_admin(finding: Finding) -> dict[str, str]:
    return follow(finding.cure, {"REDISCLI_AUTH": password_of("admin")})


def test_a_redis_as_it_is_deployed_is_in_order(guarded: GuardedRedis) -> None:
    found = look(guarded.url_of("worker"))

    assert exit_code(found) == 0, found
    assert of(found, "redis.rights").verdict == "ok"


@pytest.mark.parametrize(
    ("setting", "value", "check", "verdict"),
    [
        ("maxmemory-policy", "allkeys-lru", "redis.policy", "warn"),
        ("appendonly", "no", "redis.log", "warn"),
        ("appendfsync", "everysec", "redis.log", "warn"),
    ],
)
def test_a_setting_of_redis_that_loses_jobs_is_set_right_by_its_cure(
    server: RedisServer, setting: str, value: str, check: str, verdict: str
) -> None:
    with server.client() as client:
        client.config_set("maxmemory", "1gb")
        client.config_set(setting, value)

    found = look(server.url)
    assert (of(found, check).verdict, exit_code(found)) == (verdict, 1)
    follow(of(found, check).cure, {})

    assert exit_code(look(server.url)) == 0


@pytest.mark.parametrize(("share", "verdict"), [(0.7, "warn"), (0.95, "broken")], ids=["bulk", "all"])
def test_a_redis_without_room_for_work_gets_it_by_the_cure(
    server: RedisServer, share: float, verdict: str
) -> None:
    with server.client() as client:
        # What is written meanwhile takes 10 MB more for a moment.
        while client.info("persistence")["aof_rewrite_in_progress"]:
            time.sleep(0.01)
        client.setrange("filler", 20_000_000, "x")
        used = client.info("memory")["used_memory"]
        client.config_set("maxmemory", int(used / share))

    found = look(server.url)
    assert of(found, "redis.memory").verdict == verdict
    follow(of(found, "redis.memory").cure, {})

    assert exit_code(look(server.url)) == 0
    with server.client() as client:
        client.delete("filler")


def test_memory_counts_against_our_own_limit_where_redis_has_none(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with server.client() as client:
        client.config_set("maxmemory", 0)
        client.setrange("filler", 20_000_000, "x")

    found = look(server.url, max_broker_bytes=21_000_000)
    assert of(found, "redis.memory").verdict == "broken"
    after = follow(of(found, "redis.memory").cure, {})

    assert exit_code(look(server.url, max_broker_bytes=int(after["RERANKQ_MAX_BROKER_BYTES"]))) == 0


@pytest.mark.parametrize(
    ("user", "taken", "check"),
    [
        ("producer", "-zadd", "redis.rights"),
        ("producer", "-evalsha -subscribe", "redis.rights"),
        ("producer", "resetkeys ~rerankq.bulk*", "redis.rights"),
        ("producer", "resetchannels", "redis.rights"),
        ("producer", "-multi", "redis.rights"),
        ("worker", "-brpop -publish", "redis.rights.worker"),
        ("worker", "resetchannels &celery-task-meta-*", "redis.rights.worker"),
    ],
)
def test_a_right_taken_away_is_named_and_given_back_by_the_cure(
    guarded: GuardedRedis, user: str, taken: str, check: str
) -> None:
    with redis.Redis.from_url(guarded.url_of("admin")) as admin:
        admin.execute_command("ACL", "SETUSER", user, *taken.split())

    found = look(guarded.url_of(user), serves_here=user == "worker")
    assert (of(found, check).verdict, exit_code(found)) == ("broken", 2), found
    type_as_admin(of(found, check))

    assert exit_code(look(guarded.url_of(user), serves_here=user == "worker")) == 0


def test_a_producers_user_is_fine_for_a_producer(guarded: GuardedRedis) -> None:
    found = of(look(guarded.url_of("producer")), "redis.rights")

    assert (found.verdict, found.text) == (
        "ok",
        "the user producer may do all that a producer does, and not what a worker does",
    )


def test_a_user_without_any_right_gets_the_first_by_the_cure(guarded: GuardedRedis) -> None:
    with redis.Redis.from_url(guarded.url_of("admin")) as admin:
        admin.execute_command("ACL", "SETUSER", "nobody", "reset", "on", ">word-of-nobody")

    found = of(look(guarded.url_of("nobody")), "redis")
    assert "may not even PING" in found.text
    type_as_admin(found)

    assert of(look(guarded.url_of("nobody")), "redis").verdict == "ok"


def test_asking_for_rights_changes_nothing(guarded: GuardedRedis) -> None:
    with redis.Redis.from_url(guarded.url_of("admin")) as admin:
        before = admin.keys("*")
        look(guarded.url_of("admin"))

        assert admin.keys("*") == before


def test_every_command_of_the_list_can_be_asked_about(server: RedisServer) -> None:
    """Each with as many arguments as it takes: what Redis does not know, it would never refuse for want of rights."""
    asked = questions((*PRODUCER, *WORKER), (*PRODUCER_CHANNELS, *WORKER_CHANNELS))
    with server.client() as client:
        assert refused(client, asked) == {}
        client.execute_command("ACL", "SETUSER", "nobody", "on", ">nothing", "-@all", "+multi", "+discard")
    with redis.Redis.from_url(server.url.replace("//", "//nobody:nothing@")) as nobody:
        allowed = set(asked) - set(refused(nobody, asked))
    assert {question.command for question in allowed} <= {"hello"}  # which Redis 6.2 takes from anybody


def test_answers_in_another_redis_need_their_own_rights_there(
    server: RedisServer, guarded: GuardedRedis
) -> None:
    with redis.Redis.from_url(guarded.url_of("admin")) as admin:
        admin.execute_command(
            "ACL", "SETUSER", "answers", "reset", "on", ">word-of-answers", "-@all", "+ping"
        )

    # Without transactions nothing else can be asked, and without a command nothing of its keys.
    for lacking in ("+multi +exec +discard", "+get ", "~celery-task-meta-*"):
        finding = of(look(server.url, result_url=guarded.url_of("answers")), "results.rights")
        assert (finding.verdict, lacking in finding.cure) == ("broken", True)
        type_as_admin(finding)

    found = look(server.url, result_url=guarded.url_of("answers"))
    assert of(found, "results.rights").verdict == "ok"
    assert "rerankq.bulk" not in str(guarded_rules(guarded, "answers"))


def guarded_rules(guarded: GuardedRedis, user: str) -> object:
    with redis.Redis.from_url(guarded.url_of("admin")) as admin:
        return admin.acl_getuser(user)


def test_a_redis_that_is_not_there_is_started_by_the_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RedisServer() as server:
        url = server.url
    monkeypatch.setenv("RERANKQ_BROKER_URL", url)

    found = look(url)
    assert (of(found, "redis").verdict, exit_code(found)) == ("broken", 2)
    follow(of(found, "redis").cure, {}, tmp_path)
    try:
        follow(f"until redis-cli -p {server.port} ping; do sleep 0.05; done", {})
        assert exit_code(look(url)) == 0
    finally:
        follow(f"redis-cli -p {server.port} shutdown nosave || true", {})


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda url: url.replace("word-of-worker", "another"), "refuses the user or password"),
        (lambda url: url.replace("/0", "/99"), "refuses: no such database"),
    ],
    ids=["password", "database"],
)
def test_a_wrong_address_is_told_without_its_password(
    guarded: GuardedRedis, spoil: object, said: str
) -> None:
    found = of(look(spoil(guarded.url)), "redis")  # pyright: ignore[reportCallIssue]

    assert found.verdict == "broken"
    assert said in found.text
    assert "another" not in str(found)
    assert "word-of" not in str(found)


@pytest.mark.parametrize(
    ("url", "mended"),
    [
        (
            "rediss://a:b@host:1/0?ssl_cert_reqs=required",
            "'rediss://USER:PASSWORD@host:1/0?ssl_cert_reqs=required'",
        ),
        (
            "sentinel://a:1/0;sentinel://:b@c:2/0",
            "'sentinel://USER:PASSWORD@a:1/0;sentinel://USER:PASSWORD@c:2/0'",
        ),
        ("unix:///run/redis.sock?db=2", "'unix://USER:PASSWORD@/run/redis.sock?db=2'"),
        ("redis://a:b@c;d@host:1/0", "redis://USER:PASSWORD@host:1/0"),
    ],
    ids=["tls", "sentinels", "socket", "a password with an @"],
)
def test_another_password_is_asked_for_in_the_address_as_it_is(
    url: str, mended: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise redis.AuthenticationError

    monkeypatch.setattr("redis.Redis.ping", refuse)

    assert of(look(url), "redis").cure == f"export RERANKQ_BROKER_URL={mended}"


def test_a_redis_that_takes_long_gets_its_time_by_the_cure(server: RedisServer) -> None:
    found = of(look(server.url, redis_timeout_seconds=1e-4), "redis")
    assert "counts as down (RERANKQ_REDIS_TIMEOUT_SECONDS)" in found.text
    after = float(follow(found.cure, {})["RERANKQ_REDIS_TIMEOUT_SECONDS"])

    assert of(look(server.url, redis_timeout_seconds=after), "redis").verdict == "ok"


def test_the_disk_of_a_redis_elsewhere_is_shown_by_what_is_typed_there(server: RedisServer) -> None:
    found = of(look(server.url.replace("127.0.0.1", "127.0.0.2")), "redis.disk")

    assert (found.verdict, "is not known here" in found.text) == ("skipped", True)
    follow(found.text.partition("where it runs: ")[2], {})


def test_the_disk_of_a_redis_whose_directory_is_closed_is_shown_by_what_is_typed(server: RedisServer) -> None:
    assert of(look(server.url), "redis.disk").verdict == "ok"

    with server.client() as client:
        directory = Path(client.config_get("dir")["dir"])
    with closed_to_us(directory):
        found = of(look(server.url), "redis.disk")

    assert (found.verdict, "is not known here" in found.text) == ("skipped", True)


@pytest.fixture
def with_small_disk(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis whose files are on a small disk of its own."""
    if not small_disk.is_possible():
        pytest.skip("no disk of one's own can be made here")
    start, disk = tmp_path / "start", tmp_path / "disk"
    start.write_text(
        f'#!/bin/sh\nexec {shlex.join(small_disk.on_small_disk(disk, [find_redis_server()]))} "$@"\n'
    )
    start.chmod(0o755)
    with RedisServer(appendonly=True, binary=str(start), dir=str(disk)) as running:
        yield running


def test_a_disk_that_was_full_is_told_and_what_failed_is_done_again_by_the_cure(
    with_small_disk: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = Path(f"/proc/{with_small_disk.pid}/root{tmp_path / 'disk'}")
    monkeypatch.setattr(of_redis, "Path", lambda _: seen)  # for us, its disk is elsewhere
    monkeypatch.setattr(
        of_redis, "FREE_DISK_SHARE", 0.05
    )  # an empty one holds more in memory than such a disk
    with with_small_disk.client() as client, small_disk.filled(tmp_path / "disk", with_small_disk.pid):
        for begin, status in (
            (client.bgrewriteaof, "aof_last_bgrewrite"),
            (client.bgsave, "rdb_last_bgsave"),
        ):
            begin()
            wait_until(lambda: client.info("persistence")[f"{status}_status"] == "err")  # noqa: B023 - asked at once
        found = look(with_small_disk.url)

    assert "make room in" in of(found, "redis.disk").cure
    failed = [each for each in found if each.check == "redis.log"]
    assert len(failed) == 2
    assert all("free disk, or memory for the fork" in each.text for each in failed)
    for each in failed:
        follow(each.cure, {})
        wait_until(lambda: not any(_at_work(with_small_disk)))
    assert exit_code(look(with_small_disk.url)) == 0


def _at_work(server: RedisServer) -> Iterator[int]:
    with server.client() as client:
        told = client.info("persistence")
    yield from (told["aof_rewrite_in_progress"], told["rdb_bgsave_in_progress"])


def test_a_redis_whose_disk_is_full_tells_which_and_serves_when_there_is_room(
    with_small_disk: RedisServer, tmp_path: Path
) -> None:
    with with_small_disk.client() as client:
        client.config_set("appendfsync", "everysec")  # with `always` it ends itself
        with small_disk.filled(tmp_path / "disk", with_small_disk.pid):
            client.set("more", "x" * 10_000)
            wait_until(lambda: client.info("persistence")["aof_last_write_status"] == "err")
            found = of(look(with_small_disk.url), "redis")
            assert "refuses: MISCONF, it cannot write to its disk: free space there" in found.text
            follow(found.cure, {})

        wait_until(lambda: client.info("persistence")["aof_last_write_status"] == "ok")
    assert of(look(with_small_disk.url), "redis").verdict == "ok"


def test_a_script_that_keeps_redis_busy_is_ended_by_the_cure(server: RedisServer) -> None:
    with server.client() as client:
        client.config_set("lua-time-limit", 10)
    script = subprocess.Popen(
        [PROGRAMS / "redis-cli", "-p", str(server.port), "eval", "while true do end", "0"],
        stdout=subprocess.DEVNULL,
    )
    with server.client() as client, pytest.raises(redis.ResponseError, match="BUSY"):
        _ask_on_and_on(client)
    found = of(look(server.url), "redis")
    assert "BUSY" in found.text
    follow(found.cure, {})

    script.wait(20)
    assert of(look(server.url), "redis").verdict == "ok"


def _ask_on_and_on(client: redis.Redis) -> None:
    while True:
        client.ping()


def test_a_redis_that_lets_nobody_more_in_says_so(server: RedisServer) -> None:
    with server.client() as client:
        client.config_set("maxclients", 1)
        found = of(look(server.url), "redis")
        client.config_set("maxclients", 1000)

    assert (found.verdict, found.cure) == ("broken", "end some, or raise its `maxclients`")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"-LOADING Redis is loading the dataset in memory", "refuses: LOADING"),
        (b"-MASTERDOWN Link with MASTER is down", "refuses: MASTERDOWN"),
        (b"HTTP/1.1 400 Bad Request", "talks otherwise"),
    ],
    ids=["loading", "replica alone", "no Redis"],
)
def test_whatever_answers_otherwise_is_told_by_its_answer(line: bytes, said: str) -> None:
    class Answer(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with suppress(OSError):  # it has heard enough
                while self.request.recv(4096):
                    self.request.sendall(line + b"\r\n")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Answer) as it:
        threading.Thread(target=it.serve_forever, args=(0.01,)).start()
        found = of(look(f"redis://127.0.0.1:{it.server_address[1]}/0"), "redis")
        it.shutdown()

    assert said in found.text
    assert "redis-server" not in found.cure


def test_tls_that_fails_is_no_redis_that_is_away(server: RedisServer, tmp_path: Path) -> None:
    with tls_in_front_of(server, certificate := self_signed(tmp_path)) as port:
        unknown = of(look(f"rediss://127.0.0.1:{port}/0"), "redis")
        plain = of(look(f"redis://127.0.0.1:{port}/0"), "redis")
        known = look(f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={certificate[0]}")

    assert "certificate of the Redis" in unknown.text
    assert "?ssl_ca_certs=" in unknown.cure
    assert plain.cure == "correct RERANKQ_BROKER_URL; TLS is rediss://"
    assert of(known, "redis").verdict == "ok"


def test_sentinels_that_name_no_master_are_asked_by_the_cure() -> None:
    found = of(look("sentinel://127.0.0.1:1/0?master_name=main"), "redis")

    assert (found.verdict, found.cure) == ("broken", "redis-cli -h 127.0.0.1 -p 1 SENTINEL masters")


def test_what_is_wrong_with_a_master_is_mended_there_and_not_at_its_sentinel(
    server: RedisServer, tmp_path: Path
) -> None:
    with server.client() as client, sentinel_for(server, tmp_path) as port:
        client.config_set("appendonly", "no")
        url = f"sentinel://127.0.0.1:{port}/0?master_name={MASTER_NAME}"
        follow(of(look(url), "redis.log").cure, {})

        assert of(look(url), "redis.log").verdict == "ok"


def test_a_part_of_a_cluster_is_no_place_for_jobs(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(of_redis, "_info", lambda _: {"cluster_enabled": 1, "role": "master"})

    assert "part of a cluster" in of(look(server.url), "redis").text


def test_a_frozen_redis_ends_the_look_in_time(server: RedisServer) -> None:
    server.freeze()
    try:
        assert "is silent for 2 s" in of(look(server.url), "redis").text
    finally:
        server.thaw()


def test_a_replica_is_no_place_for_jobs(server: RedisServer, guarded: GuardedRedis) -> None:
    with RedisServer(replicaof=("127.0.0.1", str(server.port))) as replica:
        assert "it is a replica" in of(look(replica.url), "redis").text


def test_a_clock_that_is_apart_is_told(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time
    monkeypatch.setattr("rerankq.doctor.of_redis.time.time", lambda: now() + 60)

    assert "are 60 s apart" in of(look(server.url), "redis.clock").text


def test_the_whole_command_says_it_in_a_line_and_goes_on(tmp_path: Path) -> None:
    libraries = str(light_libraries(tmp_path / "libraries"))
    environment = {**os.environ, "RERANKQ_BROKER_URL": "redis://127.0.0.1:1/0", "PYTHONPATH": libraries}
    environment["PYTHONIOENCODING"] = "ascii"
    done = subprocess.run(
        [sys.executable, "-m", "rerankq.cli", "doctor"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )

    assert done.returncode == 2
    assert done.stderr == ""
    lines = {line.split()[1]: line for line in done.stdout.splitlines()}
    assert "? redis-server --port 1 " in lines["redis"]  # for an arrow that this terminal has not
    assert lines["workers"].split()[0] == "skipped"
