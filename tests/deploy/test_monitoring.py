"""Alerts and dashboard speak of metrics that exist, and Prometheus scrapes who serves them."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from rerankq.http import HttpSettings, create_app
from rerankq.testing import AsyncFakeRerankClient
from rerankq_worker.host.gpus import GPU_GAUGES
from rerankq_worker.link.health import COUNTERS
from tests.deploy.compose_rules import ROOT

# What the worker exports, with its labels. The exporter is tested against the same names.
METRICS = {
    "rerankq_lane_jobs": {"lane"},
    "rerankq_lane_oldest_seconds": {"lane"},
    "rerankq_lane_paused_seconds": {"lane", "model"},
    "rerankq_model_jobs": {"lane", "model"},
    "rerankq_model_oldest_seconds": {"lane", "model"},
    "rerankq_model_workers": {"model"},
    "rerankq_unacked_jobs": set[str](),
    "rerankq_held_jobs": {"lane"},
    "rerankq_jobs_total": {"lane", "outcome"},
    "rerankq_pairs_total": {"lane"},
    "rerankq_deliveries_total": {"cause"},
    "rerankq_refusals_total": {"reason"},
    "rerankq_job_wait_seconds_bucket": {"lane", "le"},
    "rerankq_job_seconds_bucket": {"lane", "le"},
    "rerankq_build_info": {"device", "version", "model", "revision", "dtype", "engine"},
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
# What it exports beside that of a host with GPUs.
GPU_METRICS = {name: set(labels) for name, (_, labels) in GPU_GAUGES.items()}
# What the HTTP face exports beside it.
HTTP_METRICS = {
    "rerankq_http_requests_total": {"route", "status"},
    "rerankq_http_request_seconds_bucket": {"route", "le"},
    "rerankq_http_waiting": set[str](),
    "rerankq_http_documents_total": set[str](),
    "rerankq_http_refusals_total": {"reason"},
}
# What others export that our alerts look at.
FOREIGN_METRICS = {
    "kube_pod_container_status_restarts_total",
    "kubelet_volume_stats_available_bytes",
    "kubelet_volume_stats_capacity_bytes",
    "process_start_time_seconds",
    "up",
}
# And where it sends canaries.
CANARY_METRICS = {
    "rerankq_canary_up": {"lane"},
    "rerankq_canary_seconds": {"lane"},
    "rerankq_canary_last_success_timestamp_seconds": {"lane"},
}
ALL_METRICS = METRICS | GPU_METRICS | HTTP_METRICS | CANARY_METRICS
PARTS_OF_HISTOGRAMS = {"rerankq_job_seconds_count": {"lane"}}
RUNBOOKS = ROOT / "docs" / "runbooks"
# None of them holds what a user has written.
SAFE_LABELS = {"device", "instance", "job", "lane", "model", "objective", "pod", "risk", "state", "store"}
PROMETHEUS = ROOT / "deploy" / "prometheus"
GRAFANA = ROOT / "deploy" / "grafana"


def rules(kind: str) -> list[dict[str, Any]]:
    """All that are an `alert` or a `record`."""
    groups = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"] if kind in rule]


def alerts() -> list[dict[str, Any]]:
    """All alert rules; a name may have two, of different severity."""
    return rules("alert")


def panels() -> list[dict[str, Any]]:
    """All panels of the dashboard that show something."""
    dashboard = json.loads((GRAFANA / "dashboards" / "rerankq.json").read_text())
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def expressions() -> Iterator[str]:
    """Every query of alerts and dashboard."""
    yield from (rule["expr"] for rule in (*rules("record"), *alerts()))
    yield from (target["expr"] for panel in panels() for target in panel["targets"])


def unknown_metrics(expression: str) -> set[str]:
    """Names in a query that nobody exports or records."""
    known = {
        *ALL_METRICS,
        *PARTS_OF_HISTOGRAMS,
        *FOREIGN_METRICS,
        *(rule["record"] for rule in rules("record")),
    }
    named = re.findall(r"\b(?:rerankq|process|kube|kubelet)[_:][\w:]+|\bup\b", expression)
    return set(named) - known


def unknown_labels(expression: str) -> set[str]:
    """Labels in a query's selectors that its metric does not have."""
    selectors = re.findall(r"\b(rerankq_\w+)\{([^}]*)\}", expression)
    return {
        f"{metric}{{{label}}}"
        for metric, matchers in selectors
        for label in re.findall(r"(\w+)\s*[=!]", matchers)
        if label not in {**ALL_METRICS, **PARTS_OF_HISTOGRAMS}[metric]
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


def test_every_alert_says_what_how_bad_what_to_look_at_and_where_the_cure_is() -> None:
    for rule in alerts():
        told = rule["annotations"]
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}, rule["alert"]
        assert told.keys() == {"summary", "description", "runbook_url"}, rule["alert"]
        assert told["runbook_url"] == f"docs/runbooks/{rule['alert']}.md"
        assert set(re.findall(r"\$labels\.(\w+)", " ".join(told.values()))) <= SAFE_LABELS, rule["alert"]


def test_every_alert_has_a_test_and_a_place_in_the_manual() -> None:
    tests = (PROMETHEUS / "alerts_test.yml").read_text()
    manual = (ROOT / "docs" / "operations.md").read_text()
    tested = set(re.findall(r"(?:alertname=~?\"|alertname: )(Rerankq[^\"\n,]+)", tests))

    told = [rule["annotations"] for rule in alerts()]
    expected = yaml.safe_load(tests)["tests"]
    named = [
        alert for test in expected for each in test.get("alert_rule_test", []) for alert in each["exp_alerts"]
    ]
    assert [alert for alert in named if alert["exp_annotations"] not in told] == []
    for rule in alerts():
        assert any(re.fullmatch(pattern, rule["alert"]) for pattern in tested), rule["alert"]
        assert f"`{rule['alert']}`" in manual


def test_every_alert_has_a_page_and_every_page_an_alert() -> None:
    assert {page.stem for page in RUNBOOKS.glob("*.md")} == {rule["alert"] for rule in alerts()}


@pytest.mark.parametrize("page", sorted(RUNBOOKS.glob("*.md")), ids=lambda page: page.stem)
def test_a_page_has_what_users_feel_three_commands_and_the_cure(page: Path) -> None:
    text = page.read_text()
    title, feels, block, cure = text.split("\n\n", 3)
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    named = re.findall(r"docker compose (?:--profile \w+ )?(?:logs|exec|restart|up -d) (\w[\w-]*)", text)

    assert title == f"# {page.stem}"
    assert feels.startswith("**What users feel.** ")
    assert len(block.strip("`\n").splitlines()) == 3
    assert cure.startswith("**The cure.**")
    assert set(named) <= services.keys()
    assert len(text) < 2000


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
