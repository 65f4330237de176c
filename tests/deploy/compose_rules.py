"""What docker-compose.yml must keep that its schema cannot say: one function per rule, each returns its complaints.

Knows the file as plain data; `root` is where its relative paths begin.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rerankq.contract.settings import PREFIX
from rerankq.contract.variables import VARIABLES
from rerankq.http.server import LEAVE_SECONDS
from rerankq.http.settings import HttpSettings
from rerankq_worker.settings import WorkerSettings

Compose = dict[str, Any]
Service = dict[str, Any]

ROOT = Path(__file__).parents[2]
STALL_SECONDS = 30  # a warm stop may stall this long in billiard
SECONDS = {"s": 1, "m": 60, "h": 3600}

# Secrets, and what only tests and the launcher itself set.
NOT_HANDED_ON = frozenset({"broker_url", "result_url", "engine_factory", "engine_socket", "http_keys"})
FIXED = frozenset({"http_host", "http_port"})  # of the image; what is published is compose's own


def everything_named_exists(compose: Compose) -> Iterator[str]:
    """Every volume, secret, config, network and service that a service names is there."""
    for name, service in compose["services"].items():
        for kind, used in _references(service):
            if used not in compose.get(kind, {}):
                yield f"{name}: {kind} has no {used}"


def everything_there_is_used(compose: Compose) -> Iterator[str]:
    """No volume, secret, config or network is left over."""
    used = {reference for service in compose["services"].values() for reference in _references(service)}
    for kind in ("volumes", "secrets", "configs", "networks"):
        for name in compose.get(kind, {}):
            if (kind, name) not in used:
                yield f"{kind}: nobody uses {name}"


def every_mounted_file_exists(compose: Compose) -> Iterator[str]:
    """Config files and bind mounts lie in the repository; secrets are made by `make_secrets.py`."""
    configs = [config["file"] for config in compose["configs"].values()]
    binds = [
        volume.split(":")[0]
        for service in compose["services"].values()
        for volume in service.get("volumes", [])
        if volume.startswith(".")
    ]
    for path in configs + binds:
        if not (ROOT / path).exists():
            yield f"{path} does not exist"


def dependencies_start_together(compose: Compose) -> Iterator[str]:
    """What a service waits for is part of every profile that the service is part of."""
    for name, service in compose["services"].items():
        for other in service.get("depends_on", {}):
            profiles = compose["services"].get(other, {}).get("profiles", [])
            missing = set(service.get("profiles", ["(none)"])) - set(profiles) if profiles else set()
            if missing:
                yield f"{name} waits for {other}, which is not in profile {', '.join(sorted(missing))}"


def every_variable_is_a_setting(compose: Compose) -> Iterator[str]:
    """No RERANKQ_ name anywhere is misspelt: a worker would refuse to start with it."""
    for name in sorted(set(re.findall(rf"\b{PREFIX}[A-Z0-9_]*", repr(compose)))):
        if name not in VARIABLES:
            yield f"no setting is called {name}"


def every_setting_is_handed_on(compose: Compose) -> Iterator[str]:
    """What an operator writes into `.env` reaches the worker and the HTTP face."""
    http = compose["services"]["http"]
    for name, service, read in [
        *((*each, WorkerSettings) for each in _workers(compose)),
        ("http", http, HttpSettings),
    ]:
        for setting in read.model_fields.keys() - NOT_HANDED_ON - FIXED:
            if PREFIX + setting.upper() not in service["environment"]:
                yield f"{name} does not hand on {PREFIX}{setting.upper()}"


def longest_leave_seconds(name: str) -> float:
    """How long a service of ours may need when told to stop: a bulk job's hard limit, the drain, a stalled stop; or
    what the HTTP face has under way."""
    if name == "http":
        return LEAVE_SECONDS
    settings = WorkerSettings.model_construct()
    return settings.bulk_hard_limit_seconds + settings.drain_seconds + STALL_SECONDS


def grace_outlasts_what_is_under_way(compose: Compose) -> Iterator[str]:
    """SIGKILL comes only after that."""
    for name, service in [*_workers(compose), ("http", compose["services"]["http"])]:
        grace, needed = seconds(service.get("stop_grace_period", "10s")), longest_leave_seconds(name)
        if grace <= needed:
            yield f"{name}: expected stop_grace_period to be above {needed:g} s, got {grace:g} s"


def the_face_is_where_it_is_looked_for(compose: Compose) -> Iterator[str]:
    """Published, asked for its health and given its Redis and its keys by the names that it reads."""
    http, port = compose["services"]["http"], HttpSettings.model_fields["http_port"].default
    if not all(published.endswith(f":{port}") for published in http["ports"]):
        yield f"http listens at {port}, not at {http['ports']}"
    if f":{port}/health" not in http["healthcheck"]["test"][-1]:
        yield f"http: expected to be asked at :{port}/health"
    mounted = {secret if isinstance(secret, str) else secret["target"] for secret in http["secrets"]}
    for name in sorted({"rerankq_broker_url", "rerankq_http_keys"} - mounted):
        yield f"http has no secret {name}"


def loading_is_not_ill_health(compose: Compose) -> Iterator[str]:
    """A worker may load for as long as its settings allow before it counts as unhealthy."""
    needed = WorkerSettings.model_construct().load_timeout_seconds
    for name, service in _workers(compose):
        start = seconds(service.get("healthcheck", {}).get("start_period", "0s"))
        if start <= needed:
            yield f"{name}: expected start_period to be above {needed:g} s, got {start:g} s"


def every_service_tells_its_health(compose: Compose) -> Iterator[str]:
    """Whatever keeps running has a health check, and none asks Celery's `inspect ping`."""
    for name, service in compose["services"].items():
        test = service.get("healthcheck", {}).get("test")
        if test is None and service.get("restart") != "no":
            yield f"{name} has no health check"
        if (
            name.startswith("worker")
            and test is not None
            and test[1:] != ["rerankq-worker", "health", "--ready"]
        ):
            yield f"{name}: expected `rerankq-worker health --ready`, got {test[1:]}"
        if test is not None and "inspect" in test:
            yield f"{name}: `inspect ping` says pong while the model loads; read the status file"


def ports_stay_on_loopback(compose: Compose) -> Iterator[str]:
    """Nothing is published beyond this host."""
    for name, service in compose["services"].items():
        for port in service.get("ports", []):
            if not str(port).startswith("127.0.0.1:"):
                yield f"{name} publishes {port} beyond 127.0.0.1"


def workers_have_no_way_out(compose: Compose) -> Iterator[str]:
    """A worker reads users' text: it sits on internal networks only."""
    for name, service in _workers(compose):
        for network in service.get("networks", ["default"]):
            if not (compose["networks"].get(network) or {}).get("internal"):
                yield f"{name} can leave by network {network}"


def nobody_is_root(compose: Compose) -> Iterator[str]:
    """Every service names a user by number, and it is not 0."""
    for name, service in compose["services"].items():
        user = str(service.get("user", "0")).split(":")[0]
        if not user.isdigit() or int(user) == 0:
            yield f"{name} runs as {user or 'nobody in particular'}"


def every_service_is_confined(compose: Compose) -> Iterator[str]:
    """Read-only roots with a /tmp, no capability, no new privilege."""
    for name, service in compose["services"].items():
        if service.get("read_only") is not True:
            yield f"{name} may write to its root"
        if not any(mount.split(":")[0] == "/tmp" for mount in service.get("tmpfs", [])):
            yield f"{name} has no tmpfs at /tmp"
        if service.get("cap_drop") != ["ALL"]:
            yield f"{name} keeps capabilities"
        if "no-new-privileges:true" not in service.get("security_opt", []):
            yield f"{name} may gain privileges"


def images_are_pinned(compose: Compose) -> Iterator[str]:
    """Every image has a version; `latest` is none."""
    for name, service in compose["services"].items():
        if not is_pinned(service["image"]):
            yield f"{name}: image {service['image']} names no version"


RULES = [
    everything_named_exists,
    everything_there_is_used,
    every_mounted_file_exists,
    dependencies_start_together,
    every_variable_is_a_setting,
    every_setting_is_handed_on,
    grace_outlasts_what_is_under_way,
    the_face_is_where_it_is_looked_for,
    loading_is_not_ill_health,
    every_service_tells_its_health,
    ports_stay_on_loopback,
    workers_have_no_way_out,
    nobody_is_root,
    every_service_is_confined,
    images_are_pinned,
]


def seconds(duration: str) -> float:
    """`1m30s` as 90."""
    return sum(float(count) * SECONDS[unit] for count, unit in re.findall(r"([\d.]+)([smh])", duration))


def is_pinned(image: str) -> bool:
    """Whether an image is named with a tag or digest that stands still."""
    if "@sha256:" in image:
        return True
    tag = image.rpartition("/")[2].partition(":")[2]
    return bool(re.search(r"\d", tag)) and not tag.startswith("latest")


def _workers(compose: Compose) -> Iterator[tuple[str, Service]]:
    return (item for item in compose["services"].items() if item[0].startswith("worker-"))


def _references(service: Service) -> Iterator[tuple[str, str]]:
    for volume in service.get("volumes", []):
        source = volume.split(":")[0]
        if not source.startswith((".", "/")):
            yield "volumes", source
    for kind in ("secrets", "configs", "networks"):
        for entry in service.get(kind, []):
            yield kind, entry if isinstance(entry, str) else entry["source"]
    for other in service.get("depends_on", {}):
        yield "services", other
