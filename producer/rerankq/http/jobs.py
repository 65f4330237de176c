"""The routes of jobs that outlive their request: submitted, asked for, called off.

A job answers whoever knows its id, with indices, scores and what its submitter called the documents; never a text.
"""

import hashlib
import re
from typing import Any, NoReturn

from starlette.requests import Request
from starlette.responses import Response

from rerankq.aio import AsyncJob
from rerankq.answers import JobStatus
from rerankq.contract.errors import (
    BrokerUnavailable,
    Cancelled,
    InvalidRequest,
    JobUnknown,
    RerankError,
    ResultTimeout,
)
from rerankq.contract.messages import Ranking
from rerankq.http import dialects
from rerankq.http.asking import as_request
from rerankq.http.bodies import read_json
from rerankq.http.dialects import Asked, Fields
from rerankq.http.errors import Refusal, problem, refusal
from rerankq.http.ranking import json_response
from rerankq.http.service import service_of
from rerankq.web import unless_gone

PATH = "/v1/jobs"
LONGEST_WAIT_SECONDS = 60.0
LONGEST_KEY_CHARACTERS = 255
ASK_AGAIN = {"Retry-After": "1"}
UNDER_WAY = ("queued", "running")

_ID = re.compile(r"[A-Za-z0-9_:-][A-Za-z0-9._:-]{0,127}")  # dots alone are no part of a path
_ANYBODY = Asked(dialect="cohere", query=None, documents=[], given=[], options={})


async def submit(request: Request) -> Response:
    """Accept a job, and tell where its answer will be; the same id and body again is the same job."""
    service = service_of(request)
    with service.place():
        body = await read_json(request, service.settings.http_max_body_bytes)
        asked, wanted = await as_request(service, body)
        request.state.documents = len(wanted.documents)
        _refuse_what_does_not_keep(asked)
        job_id, field = _job_id(request, body)
        try:
            job = await service.client.send(wanted, job_id)
        except InvalidRequest as error:
            _name_the_callers_field(error, field)
        status = await job.status()
    where = f"{request.scope.get('root_path', '')}{PATH}/{job.job_id}"
    return json_response(_told(status), 202, {"Location": where, **ASK_AGAIN})


async def one(request: Request) -> Response:
    """What is asked of one job: to tell where it stands, or to call it off."""
    return await (call_off if request.method == "DELETE" else tell)(request)


async def tell(request: Request) -> Response:
    """Where a job stands, with its ranking or its error once it has one; waits for that as long as asked to.

    Raises:
        JobUnknown: there is no such job.
    """
    service = service_of(request)
    job, wait = service.client.job(request.path_params["job_id"]), _wait_seconds(request)
    with service.place():
        status, end = await unless_gone(request, _standing(job, wait))
    if isinstance(end, RerankError) and status.state == "done":  # a pack
        raise end
    return json_response(_told(status, end), headers=ASK_AGAIN if end is None else None)


async def call_off(request: Request) -> Response:
    """Call a job off; one that was called off before stays so.

    Raises:
        JobUnknown: there is no such job.
        Refusal: it is answered already.
    """
    job = service_of(request).client.job(request.path_params["job_id"])
    state = (await job.status()).state
    if state == "unknown":
        raise JobUnknown(f"job {job.job_id} is not known; it never was, or its answer has expired")
    if state not in (*UNDER_WAY, "cancelled"):
        message = f"job {job.job_id} is answered already; there is nothing to call off"
        raise Refusal(409, "job_answered", message)
    await job.cancel()
    return Response(status_code=204)


async def _standing(job: AsyncJob, wait: float) -> tuple[JobStatus, Ranking | RerankError | None]:
    """The job's status and, of one that has ended, what it came to."""
    while True:
        end = await _end(job, wait)
        status = await job.status()
        was_overtaken = isinstance(end, Cancelled) and status.state == "done"
        if not was_overtaken and (end is not None or status.state in UNDER_WAY):
            return status, end
        wait = 0.0  # it has ended between the two


async def _end(job: AsyncJob, wait: float) -> Ranking | RerankError | None:
    try:
        return await job.result(wait)
    except ResultTimeout:
        return None
    except (JobUnknown, BrokerUnavailable):
        raise
    except RerankError as error:
        return error


def _told(status: JobStatus, end: Ranking | RerankError | None = None) -> dict[str, Any]:
    told: dict[str, Any] = {
        "id": status.job_id,
        "object": "job",
        "state": status.state,
        "lane": status.lane,
        "scored": status.scored,
        "total": status.total,
        "attempts": status.attempts,
        "submitted_at": status.submitted_at,
        "worker": status.worker,
        "is_paused": status.paused_since is not None,
    }
    if isinstance(end, Ranking):
        told["ranking"] = dialects.reply(_ANYBODY, end)
    elif end is not None:
        told["error"] = problem(refusal(end))
    return told


def _refuse_what_does_not_keep(asked: Asked) -> None:
    """The documents are known to the request alone, not to whoever asks for the job."""
    if asked.return_documents:
        raise InvalidRequest(
            "return_documents: a job's answer has no texts; each row's index says which of yours it is",
            {"field": "return_documents"},
        )


def _job_id(request: Request, fields: Fields) -> tuple[str | None, str]:
    """The job's id, if the caller has a name for it, and where it said so."""
    name, key = fields.get("id"), request.headers.get("idempotency-key")
    if name is None:
        return (None if key is None else _id_of_key(key)), "Idempotency-Key"
    if isinstance(name, int) and not isinstance(name, bool):
        name = str(name)
    if not isinstance(name, str) or not _ID.fullmatch(name):
        raise InvalidRequest(
            "id: expected 1 to 128 letters, digits, '.', '_', ':' or '-', the first no '.'", {"field": "id"}
        )
    return name, "id"  # also beside a key, which some clients send with every request


def _id_of_key(key: str) -> str:
    """A key as an id: itself, if it can be one, else a digest of it."""
    bare = key[1:-1] if len(key) > 1 and key[0] == key[-1] == '"' else key  # the standard's form has quotes
    if not 0 < len(bare) <= LONGEST_KEY_CHARACTERS:
        raise InvalidRequest(
            f"Idempotency-Key: expected 1 to {LONGEST_KEY_CHARACTERS} characters, got {len(bare):,}",
            {"field": "Idempotency-Key"},
        )
    if _ID.fullmatch(bare):
        return bare
    return f"key-{hashlib.blake2b(bare.encode(), digest_size=16).hexdigest()}"


def _name_the_callers_field(error: InvalidRequest, field: str) -> NoReturn:
    if error.details.get("field") != "job_id":
        raise error
    raise Refusal(409, "job_id_taken", f"{field}: {error.message}", field) from error


def _wait_seconds(request: Request) -> float:
    given = request.query_params.get("wait", "0")
    try:
        wait = float(given)
    except ValueError:
        wait = -1.0
    if not 0 <= wait <= LONGEST_WAIT_SECONDS:
        raise InvalidRequest(
            f"wait: expected seconds from 0 to {LONGEST_WAIT_SECONDS:.0f}; ask again as long as the job is under way",
            {"field": "wait"},
        )
    return wait
