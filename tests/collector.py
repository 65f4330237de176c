"""A collector of traces, as OTLP over HTTP reaches one."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

otlp = pytest.importorskip(
    "opentelemetry.proto.collector.trace.v1.trace_service_pb2", reason="needs the extra otel"
)


class Collector:
    """Takes what is exported, whoever exports it."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.bodies = b""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.bodies += body
                for resource in otlp.ExportTraceServiceRequest.FromString(body).resource_spans:
                    outer.spans += [span for scope in resource.scope_spans for span in scope.spans]
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def of(self, trace_id: int) -> dict[str, Any]:
        """The spans of a trace by their names; of attempts the last."""
        return {span.name: span for span in self.all_of(trace_id)}

    def all_of(self, trace_id: int) -> list[Any]:
        return [span for span in self.spans if int.from_bytes(span.trace_id) == trace_id]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
