"""The trace that a job is a part of, in a header of its message, as W3C writes it.

Imports no OpenTelemetry: an application that has not imported it has no span that is current.
"""

import re
import sys
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, NamedTuple

HEADER = "traceparent"
"""Of a message, and of a request by HTTP. Whoever does not know it leaves it be."""

_FORM = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.{0,200})?")
_NAUGHT = ("0" * 32, "0" * 16)

handed: ContextVar[str | None] = ContextVar("rerankq-traceparent", default=None)
"""What somebody's request by HTTP came with; for whoever asks while it is answered, and has no span of its own."""


class Origin(NamedTuple):
    """The span that something follows from."""

    trace_id: str
    span_id: str
    is_sampled: bool


def read(told: object) -> Origin | None:
    """What a header says; None where it is none, or not one."""
    found = _FORM.fullmatch(told) if isinstance(told, str) else None
    if found is None or found[1] == _NAUGHT[0] or found[2] == _NAUGHT[1] or found[0].startswith("ff"):
        return None
    return Origin(found[1], found[2], bool(int(found[3], 16) & 1))


class Submitting:
    """The span of a submission: under the one that is current, if there is one."""

    def __init__(self, lane: str, documents: int, job_id: str) -> None:
        self._span: Any = None
        self.traceparent = handed.get()
        """What the job's message is to say."""
        trace: Any = sys.modules.get("opentelemetry.trace")
        if trace is not None:
            with suppress(Exception):  # whatever is wrong with traces, the job is sent
                self._begin(
                    trace, {"rerankq.lane": lane, "rerankq.documents": documents, "rerankq.job": job_id}
                )

    def end(self, error: BaseException | None) -> None:
        """It was sent, or was not."""
        span, self._span = self._span, None
        if span is not None:
            with suppress(Exception):
                span.set_attribute("rerankq.outcome", "sent" if error is None else type(error).__name__)
                span.end()

    def _begin(self, trace: Any, attributes: dict[str, Any]) -> None:
        if trace.get_current_span().get_span_context().is_valid:
            tracer = trace.get_tracer("rerankq")
            self._span = tracer.start_span(
                "rerankq.submit", kind=trace.SpanKind.PRODUCER, attributes=attributes
            )
            self.traceparent = _written(self._span.get_span_context())


def current() -> str | None:
    """The span that is current, as a header says it; none is begun."""
    trace: Any = sys.modules.get("opentelemetry.trace")
    if trace is not None:
        with suppress(Exception):
            context = trace.get_current_span().get_span_context()
            if context.is_valid:
                return _written(context)
    return handed.get()


def _written(context: Any) -> str:
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"
