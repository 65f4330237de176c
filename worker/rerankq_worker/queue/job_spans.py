"""The spans of an attempt at a job, in the trace of whoever submitted it: written at its end, from what is known then.

Where OpenTelemetry is installed (extra `[otel]`) and its own variables name somebody who takes spans
(OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_TRACES_EXPORTER), or where the process has a provider already, as under
`opentelemetry-instrument`. Each child has an exporter of its own: threads outlive no fork. Its parent has none, for a
thread that exports may hold a lock when a child is forked (of an import, say), which the child's would wait for without
end: what a parent has to tell, of attempts that took their child along, a process beside it exports.
"""

import atexit
import importlib
import json
import logging
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any, NamedTuple

from rerankq.contract.log.process import speak_as, tell_stacks_on
from rerankq.contract.release import VERSION
from rerankq.contract.traces import Origin
from rerankq_worker.settings import WorkerSettings

LAST_SPANS_WITHIN_SECONDS = 2.0
_BESIDE_WITHIN_SECONDS = 1.5  # of the parent's end, which waits a little longer for it
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_ENTRY_POINTS = "opentelemetry_traces_exporter"

log = logging.getLogger(__name__)


class _Attempt(NamedTuple):
    """What is told of one, as JSON can carry it."""

    origin: Origin
    told: Mapping[str, Any]
    ended_ns: int
    ran_s: float
    wait_s: float | None
    parts: Mapping[str, float | None]


def write(
    origin: Origin,
    told: Mapping[str, Any],
    *,
    ran_s: float,
    wait_s: float | None,
    parts: Mapping[str, float | None],
) -> None:
    """The spans of an attempt that ends now: how long it waited, how long it ran, and of that each part.

    Args:
        origin: of the submission.
        told: attributes of the attempt; None is left out.
        parts: seconds, one after another from its beginning; what is left of it is the answer's.
    """
    attempt = _Attempt(origin, told, time.time_ns(), ran_s, wait_s, parts)
    try:
        if _ours.is_prepared or _theirs() is not None:
            _export(attempt)
        elif _exporters():
            _beside.hand(attempt)
    except Exception as error:  # noqa: BLE001 - the boundary: whatever is wrong with traces, jobs go on
        log.warning("a job's spans could not be written: %s", type(error).__name__)


def prepare() -> None:
    """In a process that forks no more: make what exports, before the first job has to wait for it."""
    _beside.leave()
    _ours.is_prepared = True
    _ours.tracer()


def finish() -> None:
    """Have what is left be exported, not for long: this process ends."""
    thread = threading.Thread(target=_ours.close, name="last spans", daemon=True)
    thread.start()
    thread.join(LAST_SPANS_WITHIN_SECONDS)


def main() -> None:
    """The process beside a parent: exports what it is handed, until that has ended."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)  # the parent gets it too, and may have more to tell
    tell_stacks_on(signal.SIGUSR1)
    settings = WorkerSettings.load()
    speak_as("spans", settings.log, settings.log_level)
    threading.Thread(target=_end_with_parent, name="end", daemon=True).start()
    prepare()
    for line in sys.stdin.buffer:
        origin, *rest = json.loads(line)
        _export(_Attempt(Origin(*origin), *rest))
    _ours.close()


def _end_with_parent() -> None:
    """Soon after it, whoever does not take what is left."""
    ends = select.poll()
    ends.register(sys.stdin.fileno(), 0)  # that nobody can write any more is told unasked
    ends.poll()
    time.sleep(_BESIDE_WITHIN_SECONDS)
    os._exit(os.EX_OK)


class _Beside:
    """The process beside a parent, started with the first attempt that is handed to it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def hand(self, attempt: _Attempt) -> None:
        """Waits for nobody: while it cannot be taken it is dropped."""
        line = json.dumps(attempt).encode() + b"\n"
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._process = self._started()
            if self._process.stdin is not None and len(line) <= select.PIPE_BUF:  # whole or not at all
                os.write(self._process.stdin.fileno(), line)

    def leave(self) -> None:
        """In a child: it is the parent's alone, and has ended when the parent has."""
        if (process := self._process) is not None and process.stdin is not None:
            process.stdin.close()

    def _started(self) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "rerankq_worker.queue.job_spans"]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, bufsize=0)  # noqa: S603 - our own program
        if process.stdin is not None:
            os.set_blocking(process.stdin.fileno(), False)
        atexit.register(self._finish, process)
        return process

    def _finish(self, process: "subprocess.Popen[bytes]") -> None:
        self.leave()
        try:
            process.wait(LAST_SPANS_WITHIN_SECONDS)
        except subprocess.TimeoutExpired:  # it is frozen
            process.kill()


_beside = _Beside()


class _OfThisProcess:
    """The tracer of a process that forks no more; or of somebody else's provider."""

    def __init__(self) -> None:
        self.is_prepared = False
        self._pid = 0
        self._provider: Any = None
        self._tracer: Any = None

    def tracer(self) -> Any:
        """None where nobody takes spans."""
        if self._pid != os.getpid():
            self._pid, self._provider, self._tracer = os.getpid(), None, None
            try:
                self._make()
            except Exception as error:  # noqa: BLE001 - whatever is wrong with traces, jobs go on
                kind = type(error).__name__  # its words may hold an address
                log.error("no span is exported: %s; see the variables of OpenTelemetry", kind)
        return self._tracer

    def close(self) -> None:
        if self._provider is not None and self._pid == os.getpid():
            self._provider.shutdown()
        elif (provider := _theirs()) is not None:
            provider.force_flush()

    def _make(self) -> None:
        provider = _theirs()
        if provider is None and (names := _exporters()):
            provider = self._provider = _made(names)
            atexit.register(finish)
        if provider is not None:
            self._tracer = provider.get_tracer("rerankq", VERSION)


_ours = _OfThisProcess()


def _theirs() -> Any:
    """A provider that somebody else has set for this process."""
    trace: Any = sys.modules.get("opentelemetry.trace")
    provider = None if trace is None else trace.get_tracer_provider()
    return provider if hasattr(provider, "add_span_processor") else None


def _exporters() -> list[str]:
    """What the variables name, as entry points are called."""
    is_told = any(map(os.environ.get, _ENDPOINTS))
    names = os.environ.get("OTEL_TRACES_EXPORTER") or ("otlp" if is_told else "")
    protocol = next(filter(None, map(os.environ.get, _PROTOCOLS)), "http/protobuf")
    otlp = "otlp_proto_grpc" if protocol == "grpc" else "otlp_proto_http"
    found = [name.strip() for name in names.split(",")]
    return [otlp if name == "otlp" else name for name in found if name not in ("", "none")]


def _made(names: list[str]) -> Any:
    """A provider that exports in the background; None, with a line in the log, where what it takes is missing."""
    try:
        sdk: Any = importlib.import_module("opentelemetry.sdk.trace")
        export: Any = importlib.import_module("opentelemetry.sdk.trace.export")
        kinds = [next(iter(entry_points(group=_ENTRY_POINTS, name=name))).load() for name in names]
    except (ImportError, StopIteration):
        missing = ", ".join(names)
        log.error(
            "no span is exported: %s: not installed; `pip install 'rerankq[otel]'` brings OTLP", missing
        )
        return None
    os.environ.setdefault("OTEL_SERVICE_NAME", "rerankq-worker")
    provider = sdk.TracerProvider(shutdown_on_exit=False)
    for kind in kinds:
        provider.add_span_processor(export.BatchSpanProcessor(kind()))
    return provider


def _export(attempt: _Attempt) -> None:
    if (tracer := _ours.tracer()) is None:
        return
    origin, told, ended, ran_s, wait_s, parts = attempt
    trace: Any = importlib.import_module("opentelemetry.trace")
    began = ended - int(ran_s * 1e9)
    submitted = trace.set_span_in_context(trace.NonRecordingSpan(_context_of(trace, origin)))

    def span(name: str, within: Any, since: int, until: int) -> None:
        tracer.start_span(f"rerankq.{name}", within, start_time=since).end(until)

    if wait_s is not None:
        span("wait", submitted, began - int(wait_s * 1e9), began)
    ran = tracer.start_span(
        "rerankq.attempt",
        submitted,
        kind=trace.SpanKind.CONSUMER,
        attributes={f"rerankq.{name}": value for name, value in told.items() if value is not None},
        start_time=began,
    )
    within, since = trace.set_span_in_context(ran), began
    for name, seconds in parts.items():
        if seconds is not None:
            span(name, within, since, since := since + int(seconds * 1e9))
    if since > began:
        span("answer", within, since, max(since, ended))
    if told.get("error"):
        ran.set_status(trace.StatusCode.ERROR, told["error"])
    ran.end(ended)


def _context_of(trace: Any, origin: Origin) -> Any:
    flags = trace.TraceFlags(origin.is_sampled)
    return trace.SpanContext(
        int(origin.trace_id, 16), int(origin.span_id, 16), is_remote=True, trace_flags=flags
    )


if __name__ == "__main__":
    main()
