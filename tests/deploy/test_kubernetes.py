"""The Kubernetes manifests, checked without a cluster: our rules, and that each can say no."""

import copy
import re
import textwrap
import tomllib
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from starlette.testclient import TestClient

from rerankq.contract.keys import queue_of
from rerankq.contract.variables import VARIABLES
from rerankq.http import HttpSettings, create_app
from rerankq.testing import AsyncFakeRerankClient
from tests.deploy import kubernetes_rules as rules
from tests.deploy.compose_rules import ROOT
from tests.deploy.kubernetes_rules import RULES, Cluster, Manifest, read_cluster

ALL = read_cluster()


@pytest.mark.parametrize("rule", RULES)
def test_the_manifests_keep_the_rule(rule: Callable[[Cluster], Any]) -> None:
    assert list(rule(ALL)) == []


def test_compose_and_kubernetes_run_the_same_images_of_this_version() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

    in_compose = {service["image"] for service in compose["services"].values() if "build" in service}
    in_kubernetes = {
        f"{image.get('newName', image['name'])}:{image['newTag']}" for image in ALL.kustomization["images"]
    }

    assert in_compose == in_kubernetes
    assert all(image.partition(":")[2].startswith(version) for image in in_compose)


def test_what_probes_ask_of_the_face_is_told_without_a_key() -> None:
    app = create_app(AsyncFakeRerankClient(), HttpSettings.load(http_keys="secret"))
    container = ALL.http()["containers"][0]

    with TestClient(app) as http:
        told = [
            http.get(container[probe]["httpGet"]["path"]) for probe in ("readinessProbe", "livenessProbe")
        ]

    assert [reply.status_code for reply in told] == [200, 200]


def test_the_manual_scales_a_second_model_by_the_lists_that_its_workers_read() -> None:
    manual = (ROOT / "docs" / "operations.md").read_text()
    (shown,) = re.findall(r"```yaml\n( +# worker-other.*?)```", manual, re.DOTALL)
    worker, scaler = yaml.safe_load_all(textwrap.dedent(shown))

    triggers = scaler["spec"]["triggers"]

    assert all(each["name"] in VARIABLES for each in worker["env"])
    assert {each["metadata"]["listName"] for each in triggers} == rules.queues_read_with(worker["env"])
    ours = _manifest(ALL, "ScaledObject", "worker-gpu")["spec"]["triggers"][0]
    assert {each["metadata"]["address"] for each in triggers} == {ours["metadata"]["address"]}


def _manifest(cluster: Cluster, kind: str, name: str) -> Manifest:
    return next(m for m in cluster.manifests if (m["kind"], m["metadata"]["name"]) == (kind, name))


def _pod(cluster: Cluster, name: str) -> Manifest:
    return next(pod for found, pod in cluster.pods() if found == name)


def _forget_a_file(cluster: Cluster) -> None:
    cluster.kustomization["resources"].remove("kubernetes/flower.yaml")


def _move_away(cluster: Cluster) -> None:
    _manifest(cluster, "Service", "redis")["metadata"]["namespace"] = "default"


def _rename_a_secret(cluster: Cluster) -> None:
    cluster.kustomization["secretGenerator"][1]["name"] = "broker"


def _rename_the_config(cluster: Cluster) -> None:
    cluster.kustomization["configMapGenerator"][0]["name"] = "redis"


def _forget_a_mount(cluster: Cluster) -> None:
    del _pod(cluster, "worker-gpu")["containers"][0]["volumeMounts"][0]


def _forget_the_password(cluster: Cluster) -> None:
    cluster.kustomization["secretGenerator"][0]["files"].pop()


def _watch_another_list(cluster: Cluster) -> None:
    triggers = _manifest(cluster, "ScaledObject", "worker-gpu")["spec"]["triggers"]
    triggers[1]["metadata"]["listName"] = "celery"


def _serve_another_model(cluster: Cluster) -> None:
    worker = _pod(cluster, "worker-gpu")["containers"][0]
    worker["env"].append({"name": "RERANKQ_MODEL", "value": "org/other"})


def _scale_nothing(cluster: Cluster) -> None:
    _manifest(cluster, "ScaledObject", "worker-gpu")["spec"]["scaleTargetRef"]["name"] = "worker"


def _select_nothing(cluster: Cluster) -> None:
    _manifest(cluster, "Service", "flower")["spec"]["selector"]["app.kubernetes.io/name"] = "flour"


def _misspell_a_setting(cluster: Cluster) -> None:
    _pod(cluster, "worker-gpu")["containers"][0]["env"][0]["name"] = "RERANKQ_DEVICE"


def _hurry(cluster: Cluster) -> None:
    _pod(cluster, "worker-gpu")["terminationGracePeriodSeconds"] = 30


def _pause_longer(cluster: Cluster) -> None:
    cluster.http()["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][-1] = "20"


def _leave_without_workers(cluster: Cluster) -> None:
    cluster.http()["containers"][0]["readinessProbe"]["httpGet"]["path"] = "/health"


def _listen_elsewhere(cluster: Cluster) -> None:
    cluster.http()["containers"][0]["ports"][0]["containerPort"] = 8000


def _kill_while_loading(cluster: Cluster) -> None:
    _pod(cluster, "worker-gpu")["containers"][0]["livenessProbe"]["failureThreshold"] = 3


def _restart_in_an_outage(cluster: Cluster) -> None:
    _pod(cluster, "worker-gpu")["containers"][0]["livenessProbe"]["exec"]["command"][-1] = "--ready"


def _run_as_root(cluster: Cluster) -> None:
    _pod(cluster, "redis")["securityContext"]["runAsUser"] = 0


def _write_to_the_root(cluster: Cluster) -> None:
    _pod(cluster, "redis")["containers"][0]["securityContext"]["readOnlyRootFilesystem"] = False


def _keep_the_token(cluster: Cluster) -> None:
    del _pod(cluster, "flower")["automountServiceAccountToken"]


def _take_all_memory(cluster: Cluster) -> None:
    del _pod(cluster, "worker-cpu")["containers"][0]["resources"]["limits"]["memory"]


def _run_the_latest(cluster: Cluster) -> None:
    cluster.kustomization["images"][0]["newTag"] = "latest"


BREAKAGES: list[tuple[Any, Callable[[Cluster], None], str]] = [
    (rules.every_manifest_is_applied, _forget_a_file, "kustomization.yaml leaves out kubernetes/flower.yaml"),
    (rules.everything_lives_in_one_namespace, _move_away, "Service redis lives in default"),
    (rules.every_volume_leads_somewhere, _rename_a_secret, "worker-gpu: there is no secret rerankq"),
    (rules.every_volume_leads_somewhere, _rename_the_config, "redis: there is no config map redis-conf"),
    (rules.every_volume_leads_somewhere, _forget_a_mount, "worker-gpu: volume models is declared only"),
    (rules.every_scaler_key_exists, _forget_the_password, "secret redis has no key redis_password"),
    (rules.scaling_follows_the_lanes, _watch_another_list, "rerankq.bulk is a lane but not watched"),
    (
        rules.scaling_follows_the_lanes,
        _serve_another_model,
        f"{queue_of('bulk', 'org/other')} is a lane but not watched",
    ),
    (rules.scaling_follows_the_lanes, _scale_nothing, "there is no deployment worker to scale"),
    (rules.selectors_find_their_pods, _select_nothing, "Service flower selects no pod"),
    (rules.every_variable_is_a_setting, _misspell_a_setting, "no setting is called RERANKQ_DEVICE"),
    (
        rules.grace_outlasts_what_is_under_way,
        _hurry,
        "worker-gpu: expected terminationGracePeriodSeconds to be above 220, got 30",
    ),
    (
        rules.grace_outlasts_what_is_under_way,
        _pause_longer,
        "http: expected terminationGracePeriodSeconds to be above 50, got 45",
    ),
    (
        rules.the_face_is_asked_what_a_restart_mends,
        _leave_without_workers,
        "http: expected readinessProbe to ask /health/ready",
    ),
    (rules.the_face_is_asked_what_a_restart_mends, _listen_elsewhere, "http listens at 8787"),
    (
        rules.loading_is_not_death,
        _kill_while_loading,
        "worker-gpu: expected livenessProbe to wait above 600 s, got 90 s",
    ),
    (
        rules.each_probe_asks_its_own_question,
        _restart_in_an_outage,
        "worker-gpu: expected livenessProbe to ask `rerankq-worker health --live`, "
        "got ['rerankq-worker', 'health', '--ready']",
    ),
    (rules.every_pod_is_confined, _run_as_root, "redis may run as root"),
    (rules.every_pod_is_confined, _write_to_the_root, "redis may write to its root"),
    (rules.every_pod_is_confined, _keep_the_token, "flower carries a service account token"),
    (rules.every_container_has_a_memory_limit, _take_all_memory, "worker-cpu has no memory limit"),
    (rules.images_are_pinned, _run_the_latest, "worker-gpu: image rerankq-worker-gpu names no version"),
]


@pytest.mark.parametrize(("rule", "breakage", "complaint"), BREAKAGES, ids=[case[2] for case in BREAKAGES])
def test_a_rule_reports_what_breaks_it(
    rule: Any, breakage: Callable[[Cluster], None], complaint: str
) -> None:
    cluster = copy.deepcopy(ALL)
    breakage(cluster)

    assert complaint in list(rule(cluster))


def test_every_rule_was_broken_once() -> None:
    assert {rule for rule, _, _ in BREAKAGES} == set(RULES)
