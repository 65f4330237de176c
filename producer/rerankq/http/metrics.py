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

    async def tell(self, _request: Request) -> Response:
        """All of it, in Prometheus's text."""
        return Response(generate_latest(self._registry), media_type=CONTENT_TYPE_LATEST)

    def _count(self, visit: Visit) -> None:
        self._requests.labels(visit.route, visit.status).inc()
        self._seconds.labels(visit.route).observe(visit.seconds)
        self._documents.inc(visit.documents or 0)
        if visit.refused is not None:
            self._refusals.labels(visit.refused).inc()
