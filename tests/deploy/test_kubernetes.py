"""The Kubernetes manifests, checked without a cluster: our rules, and that each can say no."""

import copy
import re
import textwrap
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from starlette.testclient import TestClient

from rerankq.contract.keys import digest_of, queue_of
from rerankq.contract.variables import VARIABLES
from rerankq.http import HttpSettings, create_app
from rerankq.testing import AsyncFakeRerankClient
from rerankq_worker.host.launcher import BULK_WORKERS_BESIDE_GPU
from rerankq_worker.settings import WorkerSettings
from tests.deploy import kubernetes_rules as rules
from tests.deploy.compose_rules import ROOT
from tests.deploy.kubernetes_rules import COMPONENTS, RULES, Cluster, Manifest, read_cluster
from tests.deploy.test_monitoring import unknown_labels, unknown_metrics

PLAIN, ALL = read_cluster(), read_cluster(*COMPONENTS)


@pytest.mark.parametrize("components", [(), COMPONENTS], ids=["plain", "with all components"])
@pytest.mark.parametrize("rule", RULES)
def test_the_manifests_keep_the_rule(rule: Callable[[Cluster], Any], components: tuple[Path, ...]) -> None:
    assert list(rule(read_cluster(*components))) == []


def test_every_component_is_offered_and_uses_all_its_files() -> None:
    offered = (rules.DEPLOY / "kustomization.yaml").read_text()

    for component in COMPONENTS:
        assert f"- {component.relative_to(rules.DEPLOY)} " in offered
        told = yaml.safe_load((component / "kustomization.yaml").read_text())
        named = [*told.get("resources", []), *(patch["path"] for patch in told.get("patches", []))]
        assert {*named, "kustomization.yaml"} == {path.name for path in component.iterdir()}


def test_pods_are_scraped_at_their_ports_under_the_names_that_alerts_know() -> None:
    """Those of Compose's Prometheus."""
    config = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())
    pods = dict(ALL.pods())
    jobs: set[str] = set()

    for monitor in (each for each in ALL.manifests if each["kind"] == "PodMonitor"):
        (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
        jobs |= {each["replacement"] for each in endpoint["relabelings"] if each["targetLabel"] == "job"}
        scraped = "worker-gpu" if monitor["metadata"]["name"] == "worker" else monitor["metadata"]["name"]
        assert endpoint["port"] in {port["name"] for port in pods[scraped]["containers"][0]["ports"]}

    assert jobs == {job["job_name"] for job in config["scrape_configs"]}


def test_the_scaler_asks_prometheus_for_metrics_and_models_that_exist() -> None:
    triggers = _manifest(ALL, "ScaledObject", "worker-gpu")["spec"]["triggers"]
    queries = [each["metadata"]["query"] for each in triggers if each["type"] == "prometheus"]
    (told,) = next(
        each["literals"] for each in ALL.kustomization["configMapGenerator"] if each["name"] == "model"
    )
    model = told.removeprefix("RERANKQ_MODEL=")

    assert len({each["name"] for each in triggers}) == len(queries) == len(triggers) == 5
    for query in queries:
        assert (unknown_metrics(query), unknown_labels(query)) == (set(), set())
        for models in re.findall(r'model=~"(.*?)"', query):
            for named in ("-", model, f"{model}@main", digest_of(model)):
                assert re.fullmatch(models, named)


def test_a_worker_holds_no_more_than_the_scaler_takes_it_to() -> None:
    """Else all hands full would look like room to scale down."""
    triggers = _manifest(ALL, "ScaledObject", "worker-gpu")["spec"]["triggers"]
    (held,) = (each for each in triggers if each.get("name") == "held")
    interactive = WorkerSettings.model_fields["interactive_workers"].default

    assert int(held["metadata"]["threshold"]) <= interactive + BULK_WORKERS_BESIDE_GPU


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

    told = rules.variables_of(worker)
    assert told.keys() <= VARIABLES
    assert {each["metadata"]["listName"] for each in triggers} == rules.queues_read_with(told)
    ours = _manifest(PLAIN, "ScaledObject", "worker-gpu")["spec"]["triggers"][0]
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
    cluster.kustomization["configMapGenerator"][1]["name"] = "redis"


def _forget_a_mount(cluster: Cluster) -> None:
    for container in (
        *_pod(cluster, "worker-gpu")["initContainers"],
        *_pod(cluster, "worker-gpu")["containers"],
    ):
        del container["volumeMounts"][0]


def _forget_the_password(cluster: Cluster) -> None:
    cluster.kustomization["secretGenerator"][0]["files"].pop()


def _watch_another_list(cluster: Cluster) -> None:
    triggers = _manifest(cluster, "ScaledObject", "worker-gpu")["spec"]["triggers"]
    triggers[1]["metadata"]["listName"] = "celery"


def _ask_for_served_models_alone(cluster: Cluster) -> None:
    for trigger in _manifest(cluster, "ScaledObject", "worker-gpu")["spec"]["triggers"]:
        asked = trigger["metadata"]
        asked["query"] = asked.get("query", "").replace(f"|{digest_of('BAAI/bge-reranker-v2-m3')}", "")


def _serve_another_model(cluster: Cluster) -> None:
    worker = _pod(cluster, "worker-gpu")["containers"][0]
    worker["env"].append({"name": "RERANKQ_MODEL", "value": "org/other"})


def _wait_for_nothing(cluster: Cluster) -> None:
    del _pod(cluster, "worker-gpu")["initContainers"]


def _fetch_in_each_pod(cluster: Cluster) -> None:
    _pod(cluster, "worker-gpu")["initContainers"][0]["env"].clear()


def _give_no_surge(cluster: Cluster) -> None:
    rolling = _manifest(cluster, "Deployment", "worker-gpu")["spec"]["strategy"]["rollingUpdate"]
    rolling.update(maxSurge=0, maxUnavailable=1)


def _let_flower_out(cluster: Cluster) -> None:
    _manifest(cluster, "NetworkPolicy", "flower")["spec"]["policyTypes"].remove("Egress")


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
        _ask_for_served_models_alone,
        f"{queue_of('bulk', 'BAAI/bge-reranker-v2-m3')} is a lane but not watched",
    ),
    (
        rules.scaling_follows_the_lanes,
        _serve_another_model,
        f"{queue_of('bulk', 'org/other')} is a lane but not watched",
    ),
    (
        rules.workers_wait_for_the_model_that_is_fetched,
        _serve_another_model,
        "worker-gpu: pull names another model",
    ),
    (
        rules.workers_wait_for_the_model_that_is_fetched,
        _wait_for_nothing,
        "worker-gpu does not wait for its model",
    ),
    (
        rules.workers_wait_for_the_model_that_is_fetched,
        _fetch_in_each_pod,
        "worker-gpu fetches the model itself",
    ),
    (rules.an_upgrade_leaves_somebody, _give_no_surge, "worker-gpu stands still while it is upgraded"),
    (rules.who_reads_texts_has_no_way_out, _let_flower_out, "flower may reach the world"),
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
    broken = copy.deepcopy([PLAIN, ALL])
    for cluster in broken:
        breakage(cluster)

    assert complaint in [said for cluster in broken for said in rule(cluster)]


def test_every_rule_was_broken_once() -> None:
    assert {rule for rule, _, _ in BREAKAGES} == set(RULES)
