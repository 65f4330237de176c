"""The manifests against the schemas of Kubernetes itself, of which pip has a copy."""

import subprocess
from pathlib import Path

import pytest
import yaml

from tests.deploy.kubernetes_rules import COMPONENTS, DEPLOY, read_cluster
from tests.neighbours.side import side_environment

VALIDATE = """
import sys, kubernetes_validate, yaml
for manifest in yaml.safe_load_all(sys.stdin):
    kubernetes_validate.validate(manifest, sys.argv[1], strict=True)
"""
OF_OTHERS = {"ScaledObject", "TriggerAuthentication", "PodMonitor", "PrometheusRule"}
"""Of KEDA and of Prometheus' operator, whose schemas pip has not."""


@pytest.fixture(scope="module")
def python() -> Path:
    return side_environment("kubernetes-validate>=1.31", "pyyaml")


def validated(
    python: Path, manifests: list[dict[str, object]], version: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [python, "-c", VALIDATE, version], input=yaml.safe_dump_all(manifests), capture_output=True, text=True
    )


@pytest.mark.parametrize("version", ["1.29", "1.31"])
def test_kubernetes_takes_every_manifest_of_its_own_kinds(python: Path, version: str) -> None:
    ours = [each for each in read_cluster(*COMPONENTS).manifests if each["kind"] not in OF_OTHERS]

    done = validated(python, ours, version)

    assert len(ours) > 10
    assert done.returncode == 0, done.stderr


def test_a_field_in_the_wrong_place_is_seen(python: Path) -> None:
    (worker,) = yaml.safe_load_all((DEPLOY / "kubernetes" / "worker-gpu.yaml").read_text())
    worker["spec"]["initContainers"] = worker["spec"]["template"]["spec"].pop("initContainers")

    done = validated(python, [worker], "1.31")

    assert "initContainers" in done.stderr
