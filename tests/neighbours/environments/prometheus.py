"""A real Prometheus on loopback, with the configuration and the alerts of `deploy/` in a time that runs faster.

It scrapes a kubelet, too, where one is told.
"""

import json
import os
import re
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import yaml

from tests.conftest import REPOSITORY
from tests.neighbours.side import debian_packages
from tests.redis_server import free_port
from tests.service import TIED

DEPLOYED = REPOSITORY / "deploy" / "prometheus"
FASTER = 30
"""A minute of the alerts is two seconds here; how long a job takes, and what is scraped when, is as it is."""
LONG_SECONDS = 600
"""Thresholds from here on are times that an operator waits, and shortened; below it is a caller who does."""
UNITS = {"s": 1, "m": 60, "h": 3600}


def program(name: str) -> Path:
    """`prometheus` or `promtool`: that of the PATH, or else Debian's, unpacked once; skips where there is neither."""
    if found := shutil.which(name):
        return Path(found)
    return debian_packages("prometheus") / "usr" / "bin" / name


def faster(rules: str) -> str:
    """Rules with every duration, and every threshold that is a long time, divided."""
    groups = yaml.safe_load(rules)
    for rule in (rule for group in groups["groups"] for rule in group["rules"]):
        rule["expr"] = _long_thresholds(_durations(rule["expr"]))
        for name in {"for", "keep_firing_for"} & rule.keys():
            rule[name] = _durations(rule[name])
    return yaml.safe_dump(groups)


def _durations(text: str) -> str:
    def shorter(found: re.Match[str]) -> str:
        return f"{int(found[1]) * UNITS[found[2]] * 1000 // FASTER}ms"

    return re.sub(r"(?<![\w:])(\d+)([smh])\b", shorter, text)


def _long_thresholds(expression: str) -> str:
    def shorter(found: re.Match[str]) -> str:
        seconds = int(found[1]) * int(found[2] or 1)
        return found[0] if seconds < LONG_SECONDS else f"> {seconds / FASTER:g}"

    return re.sub(r"> (\d+)(?: \* (\d+))?(?![\d.])", shorter, expression)


class Prometheus:
    """`with Prometheus(directory, key) as prometheus:`; whom it scrapes is told at any time, as discovery does."""

    def __init__(self, directory: Path, key: str) -> None:
        """`key` opens the HTTP face."""
        self._directory = directory
        self._port = free_port()
        self._key = key
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        (self._directory / "key").write_text(self._key)
        (self._directory / "alerts.yml").write_text(faster((DEPLOYED / "alerts.yml").read_text()))
        (self._directory / "prometheus.yml").write_text(yaml.safe_dump(self._configuration()))
        command = [
            *TIED,
            str(os.getpid()),
            program("prometheus"),
            f"--web.listen-address=127.0.0.1:{self._port}",
        ]
        command += [f"--config.file={self._directory / 'prometheus.yml'}", "--query.lookback-delta=10s"]
        command += [f"--storage.tsdb.path={self._directory / 'data'}"]
        with (self._directory / "prometheus.log").open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        give_up_at = time.monotonic() + 30
        while not self._is_ready():
            assert time.monotonic() < give_up_at, (self._directory / "prometheus.log").read_text()[-3000:]
            time.sleep(0.1)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(20)

    def scrape(self, **ports: Sequence[int]) -> None:
        """From now on these ports, by the name of the job with `_` for `-`."""
        for job, found in ports.items():
            targets = [{"targets": [f"127.0.0.1:{port}" for port in found]}] if found else []
            file = self._targets(job.replace("_", "-"))
            file.with_suffix(".new").write_text(json.dumps(targets))
            file.with_suffix(".new").replace(file)

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """The series that it gives now, each with its value."""
        found = self._ask("query", query=expression)["result"]
        return [(each["metric"], float(each["value"][1])) for each in found]

    def alerts(self, *states: str) -> set[str]:
        """The alerts in these states, `pending` or `firing`, or in either."""
        alerts = self._ask("alerts")["alerts"]
        return {each["labels"]["alertname"] for each in alerts if each["state"] in states or not states}

    def _configuration(self) -> Mapping[str, Any]:
        configuration = yaml.safe_load((DEPLOYED / "prometheus.yml").read_text())
        configuration["global"] = {"scrape_interval": "2s", "evaluation_interval": "500ms"}
        configuration["scrape_configs"].append({"job_name": "kubelet", "honor_labels": True})
        for job in configuration["scrape_configs"]:
            for name in [name for name in job if name.endswith("_configs")]:
                del job[name]
            files = [str(self._targets(job["job_name"]))]
            job["file_sd_configs"] = [{"files": files, "refresh_interval": "1s"}]
            if "authorization" in job:
                job["authorization"]["credentials_file"] = str(self._directory / "key")
        return configuration

    def _targets(self, job: str) -> Path:
        return self._directory / f"{job}.json"

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/-/ready", timeout=5) as reply:
                return reply.status == 200
        except OSError:
            return False

    def _ask(self, path: str, **parameters: str) -> Any:
        url = f"http://127.0.0.1:{self._port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=10) as reply:
            return json.load(reply)["data"]
