"""Any failure as a reply that each client reads: Cohere's `message`, Jina's and Voyage's `detail`, OpenAI's `error`.

TEI's requests are refused in TEI's own words. No reply tells a host, a setting or a text.
"""

from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import Response

from rerankq.contract import wire
from rerankq.contract.errors import JobFailed, RerankError, ResultTimeout
from rerankq.http.dialects import Dialect
from rerankq.web import http_status

CALLER_LEFT = 499  # nobody hears it; nginx's word for it in logs and metrics
RETRY_LATER = {"Retry-After": "2"}

_SAYINGS = {
    "NoWorkers": "no worker is there to answer; try again later",
    "BrokerUnavailable": "the queue cannot be reached; try again later",
    "InvalidSettings": "the service is configured wrongly; its log says how",
}
"""What is told where an error's own message is for the operator: it may name hosts and settings."""

_TEI_TYPES = {400: "Empty", 422: "Validation", 413: "Validation", 429: "Overloaded", 503: "Unhealthy"}
"""TEI's `error_type`s; any other failure is its `Backend`."""


@dataclass(eq=False)
class Refusal(Exception):
    """A request that gets no answer, and what its caller is told."""

    status: int
    type: str
    message: str
    param: str | None = None
    headers: dict[str, str] = field(default_factory=dict[str, str])


def refusal(error: Exception) -> Refusal:
    """What a caller is told of an error; of one that is none of ours, that it is a bug and no more."""
    match error:
        case Refusal():
            return error
        case HTTPException():
            phrase = HTTPStatus(error.status_code).phrase
            headers = dict(error.headers or {})
            return Refusal(
                error.status_code, phrase.lower().replace(" ", "_"), error.detail.lower(), None, headers
            )
        case RerankError():
            return _of_ours(error)
        case _:
            return Refusal(
                500, "internal_error", "a bug of the service; its log has more under this request's id"
            )


def problem(refusal: Refusal) -> dict[str, Any]:
    """A refusal as OpenAI's clients read it."""
    return {
        "message": refusal.message,
        "type": refusal.type,
        "param": refusal.param,
        "code": refusal.status,
    }


def refused(refusal: Refusal, dialect: Dialect, request_id: str) -> Response:
    """The reply to a request that is refused, in the words of its dialect."""
    content: dict[str, Any]
    if dialect == "tei":
        content = {"error": refusal.message, "error_type": _TEI_TYPES.get(refusal.status, "Backend")}
    else:
        message = refusal.message
        content = {"message": message, "detail": message, "error": problem(refusal), "id": request_id}
    return Response(wire.encode(content), refusal.status, refusal.headers, "application/json")


def _of_ours(error: RerankError) -> Refusal:
    status, headers = http_status(error)
    name = type(error).__name__
    if isinstance(error, ResultTimeout):  # nobody here asks for a promise
        status = 504
    if error.details.get("empty") or error.details.get("malformed"):
        status = 400
    if error.details.get("hung_up"):
        status = CALLER_LEFT
    if status == 503:
        headers = RETRY_LATER
    message = _SAYINGS.get(name) or _for_callers(error.message)
    if isinstance(error, JobFailed) and error.retryable:
        message = "the queue lost the job; send it again"
    elif isinstance(error, JobFailed):
        tried = f"after {error.attempts} attempt{'' if error.attempts == 1 else 's'}"
        message = f"the job was given up {tried if error.attempts else 'unread'}; the service's log tells why"
    return Refusal(status, _snake(name), message, error.details.get("field"), headers)


def _for_callers(message: str) -> str:
    """Without the parts that are advice to the operator: they name settings and commands."""
    parts = [part for part in message.split("; ") if "RERANKQ_" not in part and "`rerankq" not in part]
    return "; ".join(parts) or "refused"


def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")
