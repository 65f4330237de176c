"""The numbers of one face for Prometheus. No label holds what a caller can choose: routes are templates."""

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from starlette.requests import Request
from starlette.responses import Response

from rerankq.canary import Canary
from rerankq.http.service import Service, Visit

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60, 300)


class Metrics:
    """Counts every visit from now on."""

    def __init__(self, service: Service) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._requests = Counter(
            "rerankq_http_requests", "Requests that are over.", ["route", "status"], registry=registry
        )
        self._seconds = Histogram(
            "rerankq_http_request_seconds",
            "From a request's first byte to its last.",
            ["route"],
            buckets=BUCKETS,
            registry=registry,
        )
        self._documents = Counter(
            "rerankq_http_documents", "Documents in requests that were understood.", registry=registry
        )
        self._refusals = Counter(
            "rerankq_http_refusals", "Requests that got no answer.", ["reason"], registry=registry
        )
        waiting = Gauge(
            "rerankq_http_waiting", "Requests under way, of RERANKQ_HTTP_MAX_WAITING.", registry=registry
        )
        waiting.set_function(lambda: service.waiting)
        service.onlookers.append(self._count)
        self._canary_up = Gauge(
            "rerankq_canary_up",
            "1: the lane's last canary was answered rightly.",
            ["lane"],
            registry=registry,
        )
        self._canary_seconds = Gauge(
            "rerankq_canary_seconds", "How long that took.", ["lane"], registry=registry
        )
        self._canary_last_success = Gauge(
            "rerankq_canary_last_success_timestamp_seconds",
            "When one was last answered rightly.",
            ["lane"],
            registry=registry,
        )

    async def tell(self, _request: Request) -> Response:
        """All of it, in Prometheus's text."""
        return Response(generate_latest(self._registry), media_type=CONTENT_TYPE_LATEST)

    def note_canary(self, canary: Canary) -> None:
        """Tell what became of this canary; of lanes that had none nothing is told."""
        is_well = canary.wrong is None
        self._canary_up.labels(canary.lane).set(is_well)
        self._canary_seconds.labels(canary.lane).set(canary.total_seconds)
        if is_well:
            self._canary_last_success.labels(canary.lane).set_to_current_time()

    def _count(self, visit: Visit) -> None:
        self._requests.labels(visit.route, visit.status).inc()
        self._seconds.labels(visit.route).observe(visit.seconds)
        self._documents.inc(visit.documents or 0)
        if visit.refused is not None:
            self._refusals.labels(visit.refused).inc()
