"""Alerts and dashboard speak of metrics that exist, and Prometheus scrapes who serves them."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from rerankq.http import HttpSettings, create_app
from rerankq.testing import AsyncFakeRerankClient
from rerankq_worker.link.health import COUNTERS
from tests.deploy.compose_rules import ROOT

# What the worker exports, with its labels. The exporter is tested against the same names.
METRICS = {
    "rerankq_lane_jobs": {"lane"},
    "rerankq_lane_oldest_seconds": {"lane"},
    "rerankq_model_jobs": {"lane", "model"},
    "rerankq_model_oldest_seconds": {"lane", "model"},
    "rerankq_model_workers": {"model"},
    "rerankq_unacked_jobs": set[str](),
    "rerankq_dead_letters": set[str](),
    "rerankq_workers": {"state"},
    "rerankq_lost_workers": set[str](),
    "rerankq_engine_up": {"device"},
    "rerankq_engine_state": {"device", "state"},
    "rerankq_engine_pairs_per_second": {"device"},
    "rerankq_engine_waiting_rows": {"device", "lane"},
    **{f"rerankq_engine_{counter}_total": {"device"} for counter in COUNTERS},
    "rerankq_broker_memory_bytes": set[str](),
    "rerankq_broker_memory_limit_bytes": set[str](),
    "rerankq_redis_risk": {"store", "risk"},
    "rerankq_scrape_errors_total": {"part"},
}
# What the HTTP face exports beside it.
HTTP_METRICS = {
    "rerankq_http_requests_total": {"route", "status"},
    "rerankq_http_request_seconds_bucket": {"route", "le"},
    "rerankq_http_waiting": set[str](),
    "rerankq_http_documents_total": set[str](),
    "rerankq_http_refusals_total": {"reason"},
}
ALL_METRICS = METRICS | HTTP_METRICS
PROMETHEUS = ROOT / "deploy" / "prometheus"
GRAFANA = ROOT / "deploy" / "grafana"


def alerts() -> list[dict[str, Any]]:
    """All alert rules."""
    groups = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    """All panels of the dashboard that show something."""
    dashboard = json.loads((GRAFANA / "dashboards" / "rerankq.json").read_text())
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def expressions() -> Iterator[str]:
    """Every query of alerts and dashboard."""
    yield from (rule["expr"] for rule in alerts())
    yield from (target["expr"] for panel in panels() for target in panel["targets"])


def unknown_metrics(expression: str) -> set[str]:
    """Names in a query that nobody exports."""
    return set(re.findall(r"\brerankq_\w+", expression)) - ALL_METRICS.keys()


def unknown_labels(expression: str) -> set[str]:
    """Labels in a query's selectors that its metric does not have."""
    selectors = re.findall(r"\b(rerankq_\w+)\{([^}]*)\}", expression)
    return {
        f"{metric}{{{label}}}"
        for metric, matchers in selectors
        for label in re.findall(r"(\w+)\s*[=!]", matchers)
        if label not in ALL_METRICS[metric]
    }


@pytest.mark.parametrize("expression", list(expressions()))
def test_a_query_names_metrics_and_labels_that_exist(expression: str) -> None:
    assert unknown_metrics(expression) == set()
    assert unknown_labels(expression) == set()


def test_a_misspelt_metric_or_label_is_seen() -> None:
    assert unknown_metrics("max(rerankq_lane_job) > 0") == {"rerankq_lane_job"}
    assert unknown_labels('rerankq_lane_jobs{queue="bulk"}') == {"rerankq_lane_jobs{queue}"}


def test_every_metric_is_shown_somewhere() -> None:
    shown = " ".join(target["expr"] for panel in panels() for target in panel["targets"])

    assert [metric for metric in ALL_METRICS if not re.search(rf"\b{metric}\b", shown)] == []


def test_every_alert_says_what_how_bad_and_what_to_look_at() -> None:
    for rule in alerts():
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}, rule["alert"]
        assert rule["annotations"].keys() == {"summary", "description"}, rule["alert"]


def test_every_alert_has_a_test_and_a_paragraph_in_the_manual() -> None:
    tests = (PROMETHEUS / "alerts_test.yml").read_text()
    manual = (ROOT / "docs" / "operations.md").read_text()

    told = [rule["annotations"] for rule in alerts()]
    for expected in re.findall(r"exp_annotations:\n +summary: (.*)\n +description: (.*)", tests):
        assert dict(zip(("summary", "description"), expected, strict=True)) in told
    for rule in alerts():
        patterns = re.findall(r"Rerankq[\w|.*]+", tests)
        assert any(re.fullmatch(pattern, rule["alert"]) for pattern in patterns), rule["alert"]
        assert f"`{rule['alert']}`" in manual


def test_prometheus_scrapes_the_port_that_workers_serve() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    jobs = {job["job_name"]: job for job in _scrape_jobs()}

    scraped = {
        (name, found["port"]) for found in jobs["rerankq-worker"]["dns_sd_configs"] for name in found["names"]
    }

    workers = [name for name in compose if name.startswith("worker-")]
    assert scraped == {(name, int(compose[name]["environment"]["RERANKQ_METRICS_PORT"])) for name in workers}


def test_prometheus_scrapes_the_face_with_the_key_that_it_is_given() -> None:
    prometheus = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["prometheus"]
    job = next(job for job in _scrape_jobs() if job["job_name"] == "rerankq-http")

    assert job["authorization"]["credentials_file"] in {
        f"/run/secrets/{name}" for name in prometheus["secrets"]
    }
    assert [(each["names"], each["port"]) for each in job["dns_sd_configs"]] == [
        (["http"], HttpSettings.model_fields["http_port"].default)
    ]


def test_the_face_exports_these_and_no_others() -> None:
    with TestClient(create_app(AsyncFakeRerankClient()), base_url="http://127.0.0.1") as http:
        asked = [{"query": "q", "documents": documents} for documents in (["a"], [])]
        statuses = [http.post("/v1/rerank", json=each).status_code for each in asked]
        told = http.get("/metrics").text

    samples = [sample for family in text_string_to_metric_families(told) for sample in family.samples]
    kept = [
        sample
        for sample in samples
        if not sample.name.endswith(("_created", "_seconds_count", "_seconds_sum"))
        and not sample.name.startswith("process_")
    ]
    assert statuses == [200, 400]
    assert {sample.name: set(sample.labels) for sample in kept} == HTTP_METRICS


def _scrape_jobs() -> list[dict[str, Any]]:
    return yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())["scrape_configs"]


def test_no_two_panels_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        place = panel["gridPos"]
        cells = {(place["x"] + dx, place["y"] + dy) for dx in range(place["w"]) for dy in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        taken |= cells


def test_the_dashboard_asks_the_data_source_that_is_provisioned() -> None:
    sources = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yml").read_text())["datasources"]

    assert {panel["datasource"]["uid"] for panel in panels()} == {source["uid"] for source in sources}
