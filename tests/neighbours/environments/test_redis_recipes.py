"""What the manual says of TLS and failover, line for line, on Debian's Redis with our redis.conf and users."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import REPOSITORY
from tests.faults.long.test_failover import ask_until_answered
from tests.neighbours.side import debian_packages
from tests.redis_addresses import BorrowedRedis, self_signed, wait_until
from tests.redis_server import free_port
from tests.service import Service

MANUAL = (REPOSITORY / "docs" / "operations.md").read_text()
ENGINE = "rerankq_worker.doubles:slow?pair_ms=5"


class Host(NamedTuple):
    """Programs of Debian's Redis, with our secrets at hand."""

    programs: Path
    secrets: Path
    running: ExitStack

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """What a program says."""
        return subprocess.run(self._here(command), env=self._environment, capture_output=True, text=True)

    def start(self, conf: str, name: str, *options: str) -> subprocess.Popen[bytes]:
        """redis-server with this configuration, in a directory of its own."""
        directory = self.secrets.parent / name
        directory.mkdir()
        file = directory / f"{name}.conf"
        file.write_text(
            conf.replace("/run/secrets", str(self.secrets)).replace("dir /data", f"dir {directory}")
        )
        command = self._here(["redis-server", str(file), *options])
        log = (directory / "log").open("wb")
        with log:
            process = subprocess.Popen(command, cwd=directory, env=self._environment, stdout=log, stderr=log)
        self.running.callback(process.wait)
        self.running.callback(process.kill)
        return process

    def secret(self, name: str) -> str:
        return (self.secrets / name).read_text()

    def password(self) -> str:
        """The one of the user `worker`."""
        return self.secret("rerankq_broker_url").split("@")[0].rpartition(":")[2]

    def _here(self, command: tuple[str, ...] | list[str]) -> list[str]:
        return [str(self.programs / "usr" / "bin" / command[0]), *command[1:]]

    @property
    def _environment(self) -> dict[str, str]:
        libraries = [str(path.parent) for path in self.programs.glob("usr/lib/*/lib*.so*")]
        return {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(dict.fromkeys(libraries))}


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    packages = debian_packages("redis-server", "redis-tools", "libjemalloc2", "liblzf1")
    secrets = tmp_path / "secrets"
    script = REPOSITORY / "deploy" / "make_secrets.py"
    subprocess.run([sys.executable, script, secrets], check=True, capture_output=True)
    with ExitStack() as running:
        yield Host(packages, secrets, running)


def conf() -> str:
    """The redis.conf that we ship."""
    return (REPOSITORY / "deploy" / "redis" / "redis.conf").read_text()


def blocks_under(heading: str) -> list[str]:
    """What stands in blocks under a heading of the manual."""
    section = MANUAL.partition(f"# {heading}\n")[2].partition("\n#")[0]
    return re.findall(r"```\n(.*?)```", section, re.DOTALL)


def addresses(scheme: str) -> str:
    """The address that the manual gives as an example of this scheme, with a user."""
    (found,) = re.findall(rf"`({scheme}://worker:[^`]*)`", MANUAL)
    return found


def test_a_service_works_over_tls_as_the_manual_has_it(host: Host, tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path)
    for name, file in {"redis_cert": certificate, "redis_key": key, "redis_ca": certificate}.items():
        (host.secrets / name).write_text(file.read_text())
    (told,) = blocks_under("TLS")
    (health,) = re.findall(r"`(redis-cli --tls[^`]*)`", MANUAL)
    port = free_port()
    url = (
        addresses("rediss")
        .replace("PASSWORD", host.password())
        .replace("redis.example:6379", f"127.0.0.1:{port}")
        .replace("/run/secrets", str(host.secrets))
    )

    host.start(conf() + told.replace("tls-port 6379", f"tls-port {port}"), "redis")
    asked = health.replace("/run/secrets", str(host.secrets)).replace("ping", f"-p {port} ping")
    wait_until(lambda: host.run(*asked.split()).stdout == "PONG\n")

    with Service(engine=ENGINE, redis=BorrowedRedis(url)) as service:
        assert service.client.rerank("panda", ["a bear", "a panda"], timeout=60).scored == 2


def test_a_service_outlives_its_master_as_the_manual_has_it(host: Host) -> None:
    on_both, of_sentinels = (
        block.replace("ADMIN_PASSWORD", host.secret("redis_admin_password"))
        for block in blocks_under("Failover")
    )
    master, replica, *sentinels = (free_port() for _ in range(5))
    (follow,) = re.findall(r"`(replicaof [^`]*)`", MANUAL)
    serving = host.start(f"{conf()}{on_both}port {master}\n", "master")
    follow = follow.replace("host-a 6379", f"127.0.0.1 {master}")
    host.start(f"{conf()}{on_both}port {replica}\n{follow}\n", "replica")
    wait_until(lambda: "master_link_status:up" in _asked(host, replica, "info", "replication"))
    for port in sentinels:
        watching = of_sentinels.replace("host-a 6379", f"127.0.0.1 {master}").replace(
            "port 26379", f"port {port}"
        )
        host.start(watching, f"sentinel-{port}", "--sentinel")
    for port in sentinels:
        told = ("-p", str(port), "sentinel", "ckquorum", "mymaster")
        wait_until(lambda told=told: "3 usable Sentinels" in host.run("redis-cli", *told).stdout)
    url = addresses("sentinel").replace("PASSWORD", host.password())
    for number, name in enumerate(("host-a", "host-b")):
        url = url.replace(f"{name}:26379", f"127.0.0.1:{sentinels[number]}")

    with Service(engine=ENGINE, redis=BorrowedRedis(url)) as service:
        jobs = [service.client.submit(f"query {number}", ["a", "b"], lane="bulk") for number in range(20)]
        jobs[0].result(30)
        assert _asked(host, master, "wait", "1", "5000").strip() == "1"
        serving.kill()

        ask_until_answered(service.client)
        assert [job.result(60).scored for job in jobs] == [2] * 20


def _asked(host: Host, port: int, *question: str) -> str:
    login = ("--no-auth-warning", "--user", "admin", "--pass", host.secret("redis_admin_password"))
    return host.run("redis-cli", "-p", str(port), *login, *question).stdout
