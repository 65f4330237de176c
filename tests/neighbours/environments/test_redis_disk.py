"""The alert on Redis' disk, by a disk that its log fills, told of as the kubelet does; and its page's cure."""

import os
import re
import shlex
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from tests import small_disk
from tests.deploy.kubernetes_rules import read_cluster
from tests.deploy.test_monitoring import RUNBOOKS
from tests.neighbours.environments.prometheus import Prometheus
from tests.redis_server import RedisServer, find_redis_server, free_port

ALERT = "RerankqRedisDisk"
SEEN_WITHIN_SECONDS = 90.0
VALUE_BYTES = 4096
(CURE,) = re.findall("`admin (.*?)`", (RUNBOOKS / f"{ALERT}.md").read_text())

pytestmark = pytest.mark.skipif(not small_disk.is_possible(), reason="no disk can be mounted here")


class Kubelet(Collector):
    """What it tells of the volumes on its node: this one, and a full one of somebody else's."""

    def __init__(self, volume: Path) -> None:
        self._volume = volume

    def collect(self) -> Iterator[GaugeMetricFamily]:
        disk = os.statvfs(self._volume)
        for name, blocks in (("available", disk.f_bavail), ("capacity", disk.f_blocks)):
            told = GaugeMetricFamily(
                f"kubelet_volume_stats_{name}_bytes", name, labels=["namespace", "persistentvolumeclaim"]
            )
            told.add_metric(["rerankq", _claim()], blocks * disk.f_frsize)
            told.add_metric(["others", _claim()], 1000 if name == "capacity" else 0)
            yield told


def _claim() -> str:
    """As Kubernetes calls that of the first pod of our manifests."""
    (stateful,) = (each for each in read_cluster().manifests if each["kind"] == "StatefulSet")
    (template,) = stateful["spec"]["volumeClaimTemplates"]
    return f"{template['metadata']['name']}-{stateful['metadata']['name']}-0"


class RedisOnDisk(RedisServer):
    """With its log on a small disk of its own, and never rewritten but when asked."""

    def __init__(self, directory: Path) -> None:
        self._disk = directory / "disk"
        program = directory / "redis-server"
        command = shlex.join(small_disk.on_small_disk(self._disk, [find_redis_server()]))
        program.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        program.chmod(0o700)
        super().__init__(appendonly=True, binary=str(program), dir=self._disk, auto_aof_rewrite_percentage=0)

    @property
    def volume(self) -> Path:
        """The disk, as it is seen from outside."""
        return Path(f"/proc/{self.pid}/root{self._disk}")

    def overwrite_until(self, left: float) -> bytes:
        """One value again and again, until less than this share of the disk is left; the last of it."""
        with self.client() as client:
            while True:
                client.set("k", value := os.urandom(VALUE_BYTES))
                disk = os.statvfs(self.volume)
                if disk.f_bavail / disk.f_blocks < left:
                    return value


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisOnDisk]:
    with RedisOnDisk(tmp_path) as running:
        yield running


@pytest.fixture
def prometheus(tmp_path: Path, redis: RedisOnDisk) -> Iterator[Prometheus]:
    registry, port = CollectorRegistry(), free_port()
    registry.register(Kubelet(redis.volume))
    kubelet, _ = start_http_server(port, "127.0.0.1", registry)
    with Prometheus(tmp_path, "key") as prometheus:
        prometheus.scrape(kubelet=[port])
        yield prometheus
    kubelet.shutdown()
    kubelet.server_close()


def test_a_disk_that_the_log_fills_is_told_until_the_log_is_rewritten(
    redis: RedisOnDisk, prometheus: Prometheus
) -> None:
    redis.overwrite_until(0.4)
    _wait(lambda: [share < 0.4 for share in _left(prometheus)] == [True])
    assert ALERT not in prometheus.alerts()

    value = redis.overwrite_until(0.2)
    _wait(lambda: ALERT in prometheus.alerts("firing"))
    told = prometheus.query(f'ALERTS{{alertname="{ALERT}",alertstate="firing"}}')
    assert [labels["persistentvolumeclaim"] for labels, _ in told] == [_claim()]

    with redis.client() as client:
        client.execute_command(*CURE.split())
        _wait(lambda: ALERT not in prometheus.alerts())
        assert client.get("k") == value


def _left(prometheus: Prometheus) -> list[float]:
    expression = "kubelet_volume_stats_available_bytes / kubelet_volume_stats_capacity_bytes"
    return [share for labels, share in prometheus.query(expression) if labels["namespace"] == "rerankq"]


def _wait(is_so: Callable[[], object]) -> None:
    give_up_at = time.monotonic() + SEEN_WITHIN_SECONDS
    while not is_so():
        assert time.monotonic() < give_up_at
        time.sleep(0.2)
