"""The route of many requests at once: sent as packs, an answer or an error each, in their order."""

import asyncio
import contextlib
import math
import time
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from rerankq.aio import AsyncRerankClient
from rerankq.contract.errors import (
    BrokerUnavailable,
    DeadlineExceeded,
    InvalidRequest,
    JobFailed,
    JobUnknown,
    NoWorkers,
    PayloadTooLarge,
    QueueFull,
    RerankError,
    ResultTimeout,
)
from rerankq.contract.heartbeats import WorkerStatus
from rerankq.contract.messages import LANES, Lane, Ranking, RerankRequest
from rerankq.estimates import pairs_of
from rerankq.http import dialects
from rerankq.http.asking import as_request
from rerankq.http.bodies import hold, read_json
from rerankq.http.deadlines import LONGEST_SECONDS, deadline_of, timeout_seconds
from rerankq.http.dialects import Asked, Fields
from rerankq.http.errors import Refusal, problem, refusal
from rerankq.http.ranking import json_response
from rerankq.http.service import Service, service_of
from rerankq.packing import PackSize, pairs_for, runs_within
from rerankq.waiting import ANSWER_GRACE_SECONDS, given_up, may_leave_a_job
from rerankq.web import unless_gone

PATH = "/v1/rerank/batch"
MAX_REQUESTS = 1_000
MAX_DOCUMENTS = (
    200_000  # reading and packing as many takes a second of the process that serves all others, too
)
_OF_THE_BATCH = ("requests", "deadline", "timeout")  # whoever sent it has them, not each member

T = TypeVar("T")

Answer = Ranking | RerankError

# A pack that fails as a whole says nothing of its members, and one that was given up within it may have been in bad
# company: each is tried alone.
_SPLITS_A_PACK = (JobFailed, DeadlineExceeded, JobUnknown, InvalidRequest)
_TRIED_ALONE = (JobFailed, DeadlineExceeded)


@dataclass(frozen=True, slots=True)
class Member:
    """One request of a batch."""

    place: int
    asked: Asked
    request: RerankRequest
    size_bytes: int

    @property
    def pairs(self) -> int:
        """Query-document pairs to be scored, about."""
        return pairs_of(self.request)


async def batch(request: Request) -> Response:
    """For each request its ranking, in the words of its dialect, or what kept it from one."""
    service = service_of(request)
    with service.place():
        body = await read_json(request, service.settings.http_max_body_bytes)
        bodies, shared = _bodies(body)
        until = _until(request, shared, service.settings.http_timeout_seconds)
        read = await _members(request, bodies, until)
        members = [each for each in read if isinstance(each, Member)]
        request.state.documents = sum(len(member.request.documents) for member in members)
        answers = await unless_gone(request, _answers(service.client, members, until))
    _refuse_as_one(answers)
    told = [_told(each, answers) for each in read]
    return json_response({"object": "list", "data": [{"index": i, **each} for i, each in enumerate(told)]})


def _bodies(body: Any) -> tuple[list[Any], Fields]:
    """Each request as if it stood alone, and what is said for all of them."""
    shared: Fields = body if isinstance(body, dict) else {}
    requests = shared.get("requests") if isinstance(body, dict) else body
    if not isinstance(requests, list):
        raise InvalidRequest("requests: expected a list of requests", {"field": "requests"})
    if not requests:
        raise InvalidRequest("requests: must not be empty", {"field": "requests", "empty": True})
    if len(requests) > MAX_REQUESTS:
        message = f"requests: expected at most {MAX_REQUESTS:,}, got {len(requests):,}; send them in parts"
        raise InvalidRequest(message, {"field": "requests"})
    for_each = {name: value for name, value in shared.items() if name not in _OF_THE_BATCH}
    return [
        dialects.completed(each, for_each) if isinstance(each, dict) else each for each in requests
    ], shared


def _until(request: Request, shared: Fields, default: float) -> float:
    """How long the batch's caller waits, in Unix seconds: by the header, by the body, or as long as usual."""
    told = deadline_of(shared)
    if told == math.inf or "x-timeout-seconds" in request.headers:
        told = time.time() + timeout_seconds(request, default)
    return min(told, time.time() + LONGEST_SECONDS)


async def _members(
    request: Request, bodies: list[Any], until: float
) -> "list[Member | RerankError | Refusal]":
    """Each as it was understood, or why it was not.

    Raises:
        PayloadTooLarge: with what is said for all, they are larger than any body may be, or too many documents.
        QueueFull: with those of others they are more than this process should hold.
    """
    service, read, size_bytes, documents = service_of(request), [], 0, 0
    limit = service.settings.http_max_body_bytes
    for place, body in enumerate(bodies):
        member = await _member(service, place, body, until)
        if isinstance(member, Member):
            size_bytes += member.size_bytes
            documents += len(member.request.documents)
            hold(request, member.size_bytes)
        if size_bytes > limit or documents > MAX_DOCUMENTS:
            message = f"requests: expected at most {limit:,} bytes and {MAX_DOCUMENTS:,} documents in all"
            raise PayloadTooLarge(
                f"{message}, those for all counted in each; send them in parts", {"field": "requests"}
            )
        read.append(member)
    return read


async def _member(service: Service, place: int, body: Any, until: float) -> "Member | RerankError | Refusal":
    await asyncio.sleep(0)  # others come to their turn
    try:
        asked, wanted = await as_request(service, body, until)
    except BrokerUnavailable:
        raise
    except (RerankError, Refusal) as error:
        return error
    return Member(place, asked, wanted, sum(len(text.encode()) for text in wanted.texts))


async def _answers(client: AsyncRerankClient, members: list[Member], until: float) -> dict[int, Answer]:
    """What each member came to, by its place.

    Raises:
        NoWorkers: nobody is there to answer.
    """
    if not members:
        return {}
    workers = await client.workers()
    if not workers:
        raise NoWorkers("no worker is there to answer")
    models = dict.fromkeys(member.request.model for member in members)
    packs = [pack for lane in LANES for model in models for pack in _packs(members, lane, model, workers)]
    answered = await _at_once([_of_pack(client, pack, until) for pack in packs])
    return {
        member.place: answer
        for pack, answers in zip(packs, answered, strict=True)
        for member, answer in zip(pack, answers, strict=True)
    }


def _packs(
    members: Sequence[Member], lane: Lane, model: str | None, workers: list[WorkerStatus]
) -> list[list[Member]]:
    """The members for one lane and model as packs, so that each of its workers has something to do."""
    own = [member for member in members if (member.request.lane, member.request.model) == (lane, model)]
    serving = [worker for worker in workers if lane in worker.lanes and worker.may_serve(model)]
    share = math.ceil(sum(member.pairs for member in own) / max(len(serving), 1))
    return list(runs_within(own, PackSize(max_pairs=min(share, pairs_for(serving or workers)))))


async def _of_pack(client: AsyncRerankClient, pack: list[Member], until: float) -> list[Answer]:
    try:
        answers: list[Answer] = [*await _sent(client, pack, until)]
        doubtful = _TRIED_ALONE
    except RerankError as error:
        answers = [error for _ in pack]
        doubtful = _SPLITS_A_PACK
    if len(pack) == 1:
        return answers

    async def alone(member: Member, answer: Answer) -> Answer:
        has_time = member.request.deadline is not None and member.request.deadline > time.time()
        if not (isinstance(answer, doubtful) and has_time):
            return answer
        return (await _of_pack(client, [member], until))[0]

    return await _at_once([alone(*each) for each in zip(pack, answers, strict=True)])


async def _sent(
    client: AsyncRerankClient, members: list[Member], until: float
) -> list[Ranking | RerankError]:
    """The answers of one pack; whoever leaves calls it off.

    Raises:
        RerankError: it failed as a whole.
    """
    pack = await client.send_pack([member.request for member in members])
    left_seconds = until - time.time()
    try:
        return await pack.answers(left_seconds + ANSWER_GRACE_SECONDS)
    except BaseException as error:
        if may_leave_a_job(error):
            with contextlib.suppress(RerankError):
                await pack.cancel()
        if isinstance(error, ResultTimeout):
            raise given_up(pack.job_id, left_seconds, error) from error
        raise


async def _at_once(asked: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """What they come to, in order; where one fails, the others are given up."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(each) for each in asked]
    return [task.result() for task in tasks]


def _refuse_as_one(answers: Mapping[int, Answer]) -> None:
    """Where nothing was accepted, tell whoever retries by the status of the whole.

    Raises:
        RerankError
    """
    refused = [answer for answer in answers.values() if isinstance(answer, QueueFull | BrokerUnavailable)]
    if refused and len(refused) == len(answers):
        raise refused[0]


def _told(read: "Member | RerankError | Refusal", answers: Mapping[int, Answer]) -> dict[str, Any]:
    if isinstance(read, Member):
        answer = answers[read.place]
        if isinstance(answer, Ranking):
            return {"status": 200, "ranking": dialects.reply(read.asked, answer)}
        read = answer
    told = refusal(read)
    return {"status": told.status, "error": problem(told)}
