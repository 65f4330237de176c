"""What the Kubernetes manifests must keep: one function per rule, each returns its complaints.

Knows the manifests as plain data, the kustomization among them. No cluster and no schema of its API.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from rerankq.contract.heartbeats import names_of
from rerankq.contract.keys import MODEL_MARK, lane_of, queue_of
from rerankq.contract.messages import LANES
from rerankq.contract.settings import PREFIX
from rerankq.contract.variables import VARIABLES
from rerankq.http.settings import HttpSettings
from rerankq_worker.settings import WorkerSettings
from tests.deploy.compose_rules import ROOT, is_pinned, longest_leave_seconds

Manifest = dict[str, Any]
DEPLOY = ROOT / "deploy"
COMPONENTS = sorted(path.parent for path in DEPLOY.glob("kubernetes/components/*/kustomization.yaml"))


class Cluster(NamedTuple):
    """All manifests, and the kustomization that gathers them."""

    manifests: list[Manifest]
    kustomization: Manifest

    def pods(self) -> Iterator[tuple[str, Manifest]]:
        """Name and spec of every pod template."""
        for manifest in self.manifests:
            template = manifest.get("spec", {}).get("template")
            if template:
                yield manifest["metadata"]["name"], template["spec"]

    def workers(self) -> Iterator[tuple[str, Manifest]]:
        """The pods that run `rerankq-worker`."""
        return (pod for pod in self.pods() if pod[0].startswith("worker-"))

    def http(self) -> Manifest:
        """The pod of the HTTP face."""
        return dict(self.pods())["http"]

    def names(self, kind: str) -> set[str]:
        """Names of all manifests of a kind."""
        return {manifest["metadata"]["name"] for manifest in self.manifests if manifest["kind"] == kind}


def read_cluster(*components: Path) -> Cluster:
    """All manifests that the kustomization names, and what these components make of them."""
    kustomization = yaml.safe_load((DEPLOY / "kustomization.yaml").read_text())
    cluster = Cluster(_resources(DEPLOY, kustomization), kustomization)
    for component in components:
        told = yaml.safe_load((component / "kustomization.yaml").read_text())
        cluster.manifests.extend(_resources(component, told))
        for patch in told.get("patches", []):
            _patch(cluster, patch["target"], yaml.safe_load((component / patch["path"]).read_text()))
    return cluster


def _resources(directory: Path, kustomization: Manifest) -> list[Manifest]:
    return [
        manifest
        for resource in kustomization.get("resources", [])
        for manifest in yaml.safe_load_all((directory / resource).read_text())
    ]


def _patch(cluster: Cluster, target: Manifest, steps: list[Manifest]) -> None:
    """Take out or put anew, which is all that our components do."""
    (patched,) = (
        manifest
        for manifest in cluster.manifests
        if (manifest["kind"], manifest["metadata"]["name"]) == (target["kind"], target["name"])
    )
    for step in steps:
        *parents, last = step["path"].strip("/").split("/")
        place = patched
        for name in parents:
            place = place[name]
        del place[last]
        if step["op"] == "replace":
            place[last] = step["value"]
        else:
            assert step["op"] == "remove", step


def every_manifest_is_applied(cluster: Cluster) -> Iterator[str]:
    """No file of the directory is forgotten in the kustomization."""
    for path in sorted((DEPLOY / "kubernetes").glob("*.yaml")):  # a component is asked for by its reader
        if f"kubernetes/{path.name}" not in cluster.kustomization["resources"]:
            yield f"kustomization.yaml leaves out kubernetes/{path.name}"


def everything_lives_in_one_namespace(cluster: Cluster) -> Iterator[str]:
    """Every manifest but the namespace itself says where it lives."""
    for manifest in cluster.manifests:
        metadata = manifest["metadata"]
        if manifest["kind"] != "Namespace" and metadata.get("namespace") not in cluster.names("Namespace"):
            yield f"{manifest['kind']} {metadata['name']} lives in {metadata.get('namespace')}"


def every_volume_leads_somewhere(cluster: Cluster) -> Iterator[str]:
    """Secrets, config maps and claims exist; every volume is mounted, every mount has a volume."""
    for name, pod in cluster.pods():
        for kind, source in _sources(pod):
            if source not in _available(cluster, kind):
                yield f"{name}: there is no {kind} {source}"
        volumes = {volume["name"] for volume in pod["volumes"]} | _claim_templates(cluster, name)
        mounts = {mount["name"] for container in _containers(pod) for mount in container["volumeMounts"]}
        for volume in sorted(volumes ^ mounts):
            yield f"{name}: volume {volume} is {'mounted' if volume in mounts else 'declared'} only"


def every_scaler_key_exists(cluster: Cluster) -> Iterator[str]:
    """What KEDA and Prometheus read from secrets is in them."""
    for manifest in cluster.manifests:
        spec = manifest.get("spec", {})
        scraped = spec.get("podMetricsEndpoints", [])
        keys = [
            endpoint["authorization"]["credentials"] for endpoint in scraped if "authorization" in endpoint
        ]
        for reference in [*spec.get("secretTargetRef", []), *keys]:
            if reference["key"] not in _secret_keys(cluster).get(reference["name"], set()):
                yield f"secret {reference['name']} has no key {reference['key']}"


def scaling_follows_the_lanes(cluster: Cluster) -> Iterator[str]:
    """A scaler watches each list that its deployment reads, and that deployment exists."""
    for manifest in cluster.manifests:
        if manifest["kind"] != "ScaledObject":
            continue
        target = manifest["spec"]["scaleTargetRef"]["name"]
        if target not in cluster.names("Deployment"):
            yield f"there is no deployment {target} to scale"
            continue
        (container,) = dict(cluster.pods())[target]["containers"]
        queues = queues_read_with(_variables(cluster, container))
        watched = {
            queue for each in manifest["spec"]["triggers"] for queue in _watched(each["metadata"], queues)
        }
        for queue in sorted(watched ^ queues):
            yield f"{queue} is {'watched but no lane' if queue in watched else 'a lane but not watched'}"


def _watched(trigger: Manifest, queues: set[str]) -> set[str]:
    """The list of Redis, or those of these lists of which Prometheus is asked, whether or not a worker serves them."""
    if "listName" in trigger:
        return {trigger["listName"]}
    asked = re.search(r'lane="(\w+)",model=~"(.*?)"', trigger["query"])
    if asked is None:
        return set()
    return {
        queue
        for queue in queues
        if lane_of(queue) == asked[1] and re.fullmatch(asked[2], queue.partition(MODEL_MARK)[2] or "-")
    }


def queues_read_with(told: Mapping[str, str]) -> set[str]:
    """The lists that a worker with these variables reads, as far as they name its revision."""
    settings = {
        name: told.get(f"{PREFIX}{name.upper()}") for name in ("model", "model_revision", "serve_unnamed")
    }
    model = settings["model"] or WorkerSettings.model_fields["model"].default
    names = names_of(model, settings["model_revision"] or "")[: 2 if settings["model_revision"] else 1]
    unnamed = () if settings["serve_unnamed"] == "false" else (None,)
    return {queue_of(lane, name) for lane in LANES for name in (*unnamed, *names)}


def workers_wait_for_the_model_that_is_fetched(cluster: Cluster) -> Iterator[str]:
    """A worker starts when its model is there, the one that the Job fetches: until then it waits and does not crash."""
    (fetching,) = dict(cluster.pods())["model-init"]["containers"]
    for name, pod in cluster.workers():
        (serving,) = pod["containers"]
        for waiting in pod.get("initContainers", [{}]):
            if "until rerankq-worker pull;" not in waiting.get("command", [""])[-1]:
                yield f"{name} does not wait for its model"
            elif _variables(cluster, waiting).get("RERANKQ_OFFLINE") != "true":
                yield f"{name} fetches the model itself"
            for container in (fetching, waiting):
                if container and _model(cluster, container) != _model(cluster, serving):
                    yield f"{name}: {container['name']} names another model"


def an_upgrade_leaves_somebody(cluster: Cluster) -> Iterator[str]:
    """A new pod is ready before an old one goes."""
    for manifest in cluster.manifests:
        rolling = manifest.get("spec", {}).get("strategy", {}).get("rollingUpdate", {})
        if manifest["kind"] == "Deployment" and rolling.get("maxUnavailable", 0):
            yield f"{manifest['metadata']['name']} stands still while it is upgraded"


def who_reads_texts_has_no_way_out(cluster: Cluster) -> Iterator[str]:
    """A policy bounds whom each pod may reach; only what fetches the model, which reads no text, reaches the world."""
    bounded = [
        _selected_labels(manifest)
        for manifest in cluster.manifests
        if manifest["kind"] == "NetworkPolicy" and "Egress" in manifest["spec"]["policyTypes"]
    ]
    for manifest in cluster.manifests:
        template = manifest.get("spec", {}).get("template")
        if template and not any(each.items() <= template["metadata"]["labels"].items() for each in bounded):
            name = manifest["metadata"]["name"]
            if name != "model-init" or any("secret" in volume for volume in template["spec"]["volumes"]):
                yield f"{name} may reach the world"


def selectors_find_their_pods(cluster: Cluster) -> Iterator[str]:
    """Whatever selects pods by labels meets at least one pod that has them."""
    labels = [
        manifest["spec"]["template"]["metadata"]["labels"]
        for manifest in cluster.manifests
        if "template" in manifest.get("spec", {})
    ]
    for manifest in cluster.manifests:
        wanted = _selected_labels(manifest)
        if wanted and not any(wanted.items() <= found.items() for found in labels):
            yield f"{manifest['kind']} {manifest['metadata']['name']} selects no pod"


def every_variable_is_a_setting(cluster: Cluster) -> Iterator[str]:
    """No RERANKQ_ name anywhere is misspelt: a worker would refuse to start with it."""
    for name in sorted(set(re.findall(rf"\b{PREFIX}[A-Z0-9_]*", repr(cluster)))):
        if name not in VARIABLES:
            yield f"no setting is called {name}"


def grace_outlasts_what_is_under_way(cluster: Cluster) -> Iterator[str]:
    """SIGKILL comes only after that, and after the pause before SIGTERM."""
    for name, pod in [*cluster.workers(), ("http", cluster.http())]:
        needed = longest_leave_seconds(name) + _pause_seconds(pod)
        grace = pod.get("terminationGracePeriodSeconds", 30)
        if grace <= needed:
            yield f"{name}: expected terminationGracePeriodSeconds to be above {needed:g}, got {grace}"


def loading_is_not_death(cluster: Cluster) -> Iterator[str]:
    """Neither at start nor after an engine's restart does the kubelet kill a worker that is loading."""
    needed = WorkerSettings.model_construct().load_timeout_seconds
    for name, pod in cluster.workers():
        for probe in ("startupProbe", "livenessProbe"):
            timing = pod["containers"][0].get(probe, {})
            patience = timing.get("periodSeconds", 10) * timing.get("failureThreshold", 3)
            if patience <= needed:
                yield f"{name}: expected {probe} to wait above {needed:g} s, got {patience} s"


def each_probe_asks_its_own_question(cluster: Cluster) -> Iterator[str]:
    """An outage of Redis takes a worker out of service and restarts none."""
    asked = {"startupProbe": "--live", "livenessProbe": "--live", "readinessProbe": "--ready"}
    for name, pod in cluster.workers():
        for probe, option in asked.items():
            command = pod["containers"][0].get(probe, {}).get("exec", {}).get("command")
            if command != ["rerankq-worker", "health", option]:
                yield f"{name}: expected {probe} to ask `rerankq-worker health {option}`, got {command}"


def the_face_is_asked_what_a_restart_mends(cluster: Cluster) -> Iterator[str]:
    """Out of service without Redis, not without workers; and started again for neither."""
    container = cluster.http()["containers"][0]
    for probe, path in {"readinessProbe": "/health/ready", "livenessProbe": "/"}.items():
        if container.get(probe, {}).get("httpGet", {}).get("path") != path:
            yield f"http: expected {probe} to ask {path}"
    port = HttpSettings.model_fields["http_port"].default
    if [each["containerPort"] for each in container["ports"]] != [port]:
        yield f"http listens at {port}"


def every_pod_is_confined(cluster: Cluster) -> Iterator[str]:
    """Not root, read-only roots, no capability, no account token, no privilege to gain."""
    for name, pod in cluster.pods():
        security = pod["securityContext"]
        if not security.get("runAsNonRoot") or not security.get("runAsUser"):
            yield f"{name} may run as root"
        if pod.get("automountServiceAccountToken") is not False:
            yield f"{name} carries a service account token"
        for container in _containers(pod):
            if not container["securityContext"].get("readOnlyRootFilesystem"):
                yield f"{name} may write to its root"
            if container["securityContext"].get("allowPrivilegeEscalation") is not False:
                yield f"{name} may gain privileges"
            if container["securityContext"].get("capabilities") != {"drop": ["ALL"]}:
                yield f"{name} keeps capabilities"


def every_container_has_a_memory_limit(cluster: Cluster) -> Iterator[str]:
    """One leaking container must not take its node along."""
    for name, pod in cluster.pods():
        for container in _containers(pod):
            if "memory" not in container.get("resources", {}).get("limits", {}):
                yield f"{name} has no memory limit"


def images_are_pinned(cluster: Cluster) -> Iterator[str]:
    """Every image has a version, from the manifest or from the kustomization."""
    tags = {image["name"]: image.get("newTag", "") for image in cluster.kustomization["images"]}
    for name, pod in cluster.pods():
        for container in _containers(pod):
            image = container["image"]
            if not is_pinned(f"{image}:{tags[image]}" if image in tags else image):
                yield f"{name}: image {image} names no version"


RULES = [
    every_manifest_is_applied,
    everything_lives_in_one_namespace,
    every_volume_leads_somewhere,
    every_scaler_key_exists,
    scaling_follows_the_lanes,
    workers_wait_for_the_model_that_is_fetched,
    an_upgrade_leaves_somebody,
    who_reads_texts_has_no_way_out,
    selectors_find_their_pods,
    every_variable_is_a_setting,
    grace_outlasts_what_is_under_way,
    loading_is_not_death,
    each_probe_asks_its_own_question,
    the_face_is_asked_what_a_restart_mends,
    every_pod_is_confined,
    every_container_has_a_memory_limit,
    images_are_pinned,
]


def variables_of(container: Manifest) -> dict[str, str]:
    """What its manifest says in a container's environment by itself."""
    return {variable["name"]: variable.get("value") for variable in container.get("env", [])}


def _variables(cluster: Cluster, container: Manifest) -> dict[str, str]:
    """The same, with what config maps say."""
    named = [source["configMapRef"]["name"] for source in container.get("envFrom", [])]
    literals = [
        literal.partition("=")[::2]
        for generator in cluster.kustomization["configMapGenerator"]
        if generator["name"] in named
        for literal in generator["literals"]
    ]
    return {**dict(literals), **variables_of(container)}


def _model(cluster: Cluster, container: Manifest) -> list[str | None]:
    return [_variables(cluster, container).get(f"{PREFIX}{name}") for name in ("MODEL", "MODEL_REVISION")]


def _containers(pod: Manifest) -> list[Manifest]:
    return [*pod.get("initContainers", []), *pod["containers"]]


def _pause_seconds(pod: Manifest) -> float:
    hook = pod["containers"][0].get("lifecycle", {}).get("preStop", {})
    return float(hook["exec"]["command"][-1]) if hook else 0.0


def _sources(pod: Manifest) -> Iterator[tuple[str, str]]:
    for container in _containers(pod):
        for source in container.get("envFrom", []):
            yield "config map", source["configMapRef"]["name"]
    for volume in pod["volumes"]:
        if "secret" in volume:
            yield "secret", volume["secret"]["secretName"]
        for source in volume.get("projected", {}).get("sources", []):
            yield "secret", source["secret"]["name"]
        if "configMap" in volume:
            yield "config map", volume["configMap"]["name"]
        if "persistentVolumeClaim" in volume:
            yield "claim", volume["persistentVolumeClaim"]["claimName"]


def _available(cluster: Cluster, kind: str) -> set[str]:
    if kind == "secret":
        return set(_secret_keys(cluster))
    if kind == "config map":
        return {generator["name"] for generator in cluster.kustomization["configMapGenerator"]}
    return cluster.names("PersistentVolumeClaim")


def _secret_keys(cluster: Cluster) -> dict[str, set[str]]:
    return {
        generator["name"]: {Path(file).name for file in generator.get("files", [])}
        | {literal.partition("=")[0] for literal in generator.get("literals", [])}
        for generator in cluster.kustomization["secretGenerator"]
    }


def _claim_templates(cluster: Cluster, name: str) -> set[str]:
    return {
        template["metadata"]["name"]
        for manifest in cluster.manifests
        if manifest["metadata"]["name"] == name
        for template in manifest.get("spec", {}).get("volumeClaimTemplates", [])
    }


def _selected_labels(manifest: Manifest) -> dict[str, str]:
    spec = manifest.get("spec", {})
    if manifest["kind"] == "Service":
        return spec["selector"]
    selector = spec.get("podSelector") or spec.get("selector") or {}
    return selector.get("matchLabels", {})
