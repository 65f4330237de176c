"""docker-compose.yml, checked without an engine: its schema, our rules, and that each rule can say no."""

import json
import re
import subprocess
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy import compose_rules as rules
from tests.deploy.compose_rules import ROOT, RULES, Compose

SCHEMA_CHECK = Path(sysconfig.get_path("scripts")) / "check-jsonschema"


@pytest.fixture
def compose() -> Compose:
    """The file as data; through JSON, so that no two services share what an anchor gave them."""
    return json.loads(json.dumps(yaml.safe_load((ROOT / "docker-compose.yml").read_text())))


@pytest.mark.parametrize("rule", RULES)
def test_the_compose_file_keeps_the_rule(compose: Compose, rule: Callable[[Compose], Any]) -> None:
    assert list(rule(compose)) == []


def test_the_compose_file_follows_the_compose_specification() -> None:
    check = _check_schema(ROOT / "docker-compose.yml")

    assert check.returncode == 0, check.stdout


def test_the_manual_s_second_model_is_a_worker_of_this_file_with_settings_that_exist(
    compose: Compose,
) -> None:
    manual = (ROOT / "docs" / "operations.md").read_text()
    (shown,) = re.findall(r"```yaml\n(services:\n  worker-other.*?)```", manual, re.DOTALL)
    service = yaml.safe_load(shown)["services"]["worker-other"]

    extended = compose["services"][service["extends"]["service"]]["environment"]

    assert service["environment"].keys() <= extended.keys()


def test_the_schema_check_sees_a_misspelt_device_capability(compose: Compose, tmp_path: Path) -> None:
    device = compose["services"]["worker-gpu"]["deploy"]["resources"]["reservations"]["devices"][0]
    device["capabilites"] = device.pop("capabilities")
    broken = tmp_path / "docker-compose.yml"
    broken.write_text(yaml.safe_dump(compose))

    check = _check_schema(broken)

    assert check.returncode == 1
    assert "capabilites" in check.stdout


def _check_schema(path: Path) -> subprocess.CompletedProcess[str]:
    command = [str(SCHEMA_CHECK), "--builtin-schema", "vendor.compose-spec", "--verbose", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _set(path: str, value: Any) -> Callable[[Compose], None]:
    """A change of one entry, named by its path."""
    *parents, last = path.split("/")

    def change(compose: Compose) -> None:
        place = compose
        for name in parents:
            place = place[name]
        place[last] = value

    return change


def _drop(path: str) -> Callable[[Compose], None]:
    *parents, last = path.split("/")

    def change(compose: Compose) -> None:
        place = compose
        for name in parents:
            place = place[name]
        del place[last]

    return change


BREAKAGES: list[tuple[Any, Callable[[Compose], None], str]] = [
    (rules.everything_named_exists, _drop("volumes/models"), "worker-cpu: volumes has no models"),
    (rules.everything_named_exists, _drop("secrets/redis_users"), "redis: secrets has no redis_users"),
    (rules.everything_named_exists, _drop("configs/redis_conf"), "redis: configs has no redis_conf"),
    (rules.everything_named_exists, _drop("networks/queue"), "flower: networks has no queue"),
    (rules.everything_named_exists, _drop("services/model-init"), "worker-gpu: services has no model-init"),
    (rules.everything_there_is_used, _set("volumes/old", {}), "volumes: nobody uses old"),
    (rules.everything_there_is_used, _set("secrets/old", {}), "secrets: nobody uses old"),
    (
        rules.every_mounted_file_exists,
        _set("configs/redis_conf/file", "./deploy/redis.conf"),
        "./deploy/redis.conf does not exist",
    ),
    (
        rules.dependencies_start_together,
        _set("services/model-init/profiles", ["cpu"]),
        "worker-gpu waits for model-init, which is not in profile gpu",
    ),
    (
        rules.every_variable_is_a_setting,
        _set("services/worker-cpu/environment/RERANKQ_DEVCES", "cpu"),
        "no setting is called RERANKQ_DEVCES",
    ),
    (
        rules.every_setting_is_handed_on,
        _drop("services/worker-gpu/environment/RERANKQ_DTYPE"),
        "worker-gpu does not hand on RERANKQ_DTYPE",
    ),
    (
        rules.every_setting_is_handed_on,
        _drop("services/http/environment/RERANKQ_HTTP_MAX_WAITING"),
        "http does not hand on RERANKQ_HTTP_MAX_WAITING",
    ),
    (
        rules.grace_outlasts_what_is_under_way,
        _set("services/worker-cpu/stop_grace_period", "3m"),
        "worker-cpu: expected stop_grace_period to be above 220 s, got 180 s",
    ),
    (
        rules.grace_outlasts_what_is_under_way,
        _drop("services/http/stop_grace_period"),
        "http: expected stop_grace_period to be above 30 s, got 10 s",
    ),
    (
        rules.the_face_is_where_it_is_looked_for,
        _set("services/http/ports", ["127.0.0.1:8787:8000"]),
        "http listens at 8787, not at ['127.0.0.1:8787:8000']",
    ),
    (
        rules.the_face_is_where_it_is_looked_for,
        _set("services/http/secrets", ["rerankq_producer_url", "rerankq_http_keys"]),
        "http has no secret rerankq_broker_url",
    ),
    (
        rules.the_face_is_where_it_is_looked_for,
        _set("services/http/healthcheck/test", ["CMD", "true"]),
        "http: expected to be asked at :8787/health",
    ),
    (
        rules.loading_is_not_ill_health,
        _set("services/worker-gpu/healthcheck/start_period", "5m"),
        "worker-gpu: expected start_period to be above 600 s, got 300 s",
    ),
    (rules.every_service_tells_its_health, _drop("services/redis/healthcheck"), "redis has no health check"),
    (
        rules.every_service_tells_its_health,
        _set("services/worker-cpu/healthcheck/test", ["CMD", "celery", "inspect", "ping"]),
        "worker-cpu: `inspect ping` says pong while the model loads; read the status file",
    ),
    (
        rules.ports_stay_on_loopback,
        _set("services/redis/ports", ["6379:6379"]),
        "redis publishes 6379:6379 beyond 127.0.0.1",
    ),
    (
        rules.workers_have_no_way_out,
        _set("services/worker-cpu/networks", ["queue", "outside"]),
        "worker-cpu can leave by network outside",
    ),
    (rules.nobody_is_root, _set("services/flower/user", "0:0"), "flower runs as 0"),
    (rules.nobody_is_root, _drop("services/redis/user"), "redis runs as 0"),
    (rules.every_service_is_confined, _set("services/redis/read_only", False), "redis may write to its root"),
    (rules.every_service_is_confined, _set("services/grafana/tmpfs", []), "grafana has no tmpfs at /tmp"),
    (rules.every_service_is_confined, _drop("services/flower/cap_drop"), "flower keeps capabilities"),
    (rules.every_service_is_confined, _drop("services/redis/security_opt"), "redis may gain privileges"),
    (
        rules.images_are_pinned,
        _set("services/redis/image", "redis:latest"),
        "redis: image redis:latest names no version",
    ),
    (
        rules.images_are_pinned,
        _set("services/grafana/image", "host:5000/grafana"),
        "grafana: image host:5000/grafana names no version",
    ),
]


@pytest.mark.parametrize(("rule", "breakage", "complaint"), BREAKAGES, ids=[case[2] for case in BREAKAGES])
def test_a_rule_reports_what_breaks_it(
    compose: Compose, rule: Any, breakage: Callable[[Compose], None], complaint: str
) -> None:
    breakage(compose)

    assert complaint in list(rule(compose))


def test_the_manual_names_every_variable_of_compose_itself() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    manual = (ROOT / "docs" / "operations.md").read_text()

    variables = set(re.findall(r"\$\{([A-Z_]+)", text))

    assert variables
    assert {name for name in variables if f"`{name}`" not in manual} == set()


def test_every_rule_was_broken_once() -> None:
    assert {rule for rule, _, _ in BREAKAGES} == set(RULES)
