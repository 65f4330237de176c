"""Packs under way: sent, waited for, sent again where Redis lost them, split where they fail as a whole.

*The life of a failing pack*: a pack whose job failed, or whose time ran out for some of its rows, is not blamed as
a whole. Each row without an answer is sent again alone; what fails alone has failed for good, and its neighbours
never notice. A pack that Redis no longer knows (it lost its memory) is sent again under the same id, so that an
answer that was given meanwhile is taken, and none is scored twice.
"""

import hashlib
import math
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from rerankq.admission import shortened
from rerankq.answers import read_pack
from rerankq.bulk.rows import Entry
from rerankq.bulk.sending.answer_listener import AnswerListener
from rerankq.bulk.sending.packing import Pack
from rerankq.bulk.sending.retry_budget import RetryBudget
from rerankq.client import RerankClient
from rerankq.contract.errors import (
    BrokerUnavailable,
    DeadlineExceeded,
    InvalidRequest,
    JobFailed,
    JobUnknown,
    NoWorkers,
    QueueFull,
    RerankError,
)
from rerankq.contract.heartbeats import WorkerStatus
from rerankq.contract.keys import queue_of
from rerankq.contract.messages import Ranking
from rerankq.contract.orders import pause_over
from rerankq.waiting import what_next

Answer = Ranking | RerankError

PACKS_PER_WORKER = 4  # one scored, one waiting at the worker, the others so that it never waits for us
FEWEST_PACKS = 8
LONGEST_HOLD_SECONDS = 5.0  # a full lane is asked again at least this often
WORKERS_PERIOD_SECONDS = 2.0
MISSED_PERIOD_SECONDS = 10.0
MOST_RESENDS = 20  # of one pack that Redis keeps forgetting

# A pack refused or given up as a whole says nothing of its rows; a row refused within its pack is at fault itself.
_WHOLE_PACK_SPLITS = (JobFailed, DeadlineExceeded, JobUnknown, InvalidRequest)
_MEMBER_TRIES_ALONE = (JobFailed, DeadlineExceeded)


@dataclass(slots=True)
class AnsweredPack:
    """A pack with the answers that it has so far."""

    pack: Pack
    answers: list[Answer | None]
    job_ids: list[str] = field(default_factory=list[str])
    """Jobs whose answers may be deleted once these are safe."""

    @property
    def is_complete(self) -> bool:
        return None not in self.answers

    @property
    def pairs(self) -> Iterator[tuple[Entry, Answer]]:
        """Each entry with its answer, once it has one."""
        for entry, answer in zip(self.pack.entries, self.answers, strict=True):
            if answer is not None:
                yield entry, answer


@dataclass(slots=True)
class SentMessage:
    """One message: these entries of a pack, which name the same model or none."""

    job_id: str
    of: AnsweredPack
    indices: list[int]
    model: str | None
    sent_at: float = 0.0
    resends: int = 0


class PackSender:
    """Sends packs and gathers their answers; one thread, one pub/sub connection."""

    def __init__(self, client: RerankClient, name: str) -> None:
        """`name` makes the packs' ids: the same name and the same pack are the same job."""
        settings = client.settings
        self._client = client
        self._name = name
        self._listener = AnswerListener(settings)
        self._broker_budget = RetryBudget(settings.bulk_patience_seconds)
        self._results_budget = RetryBudget(settings.bulk_patience_seconds)
        self._absence = RetryBudget(settings.bulk_patience_seconds)
        self._to_send: deque[SentMessage] = deque()
        self._sent: dict[str, SentMessage] = {}
        self._answered: deque[AnsweredPack] = deque()
        self._hold_until = 0.0
        self._workers_at = 0.0
        self._missed_at = time.monotonic() + MISSED_PERIOD_SECONDS
        self.workers: list[WorkerStatus] = []
        self.paused_models: frozenset[str | None] = frozenset()
        """Whose jobs among those sent an operator holds back; None: the whole lane."""

    @property
    def in_flight(self) -> int:
        """Messages that have been sent and not answered."""
        return len(self._sent)

    @property
    def is_empty(self) -> bool:
        """Whether nothing more is to come of what was sent."""
        return not (self._sent or self._to_send or self._answered)

    @property
    def has_room(self) -> bool:
        """Whether another pack would keep a worker busy rather than wait in line."""
        wanted = max(FEWEST_PACKS, PACKS_PER_WORKER * len(self.workers))
        return not self._to_send and len(self._sent) < wanted and time.monotonic() >= self._hold_until

    def send(self, pack: Pack) -> None:
        """Send a pack; a pack without a single request is answered at once."""
        answered = AnsweredPack(pack, [entry.error for entry in pack.entries])
        if answered.is_complete:
            self._answered.append(answered)
            return
        by_model: dict[str | None, list[int]] = {}
        for index in pack.asked:
            by_model.setdefault(pack.model_of(index), []).append(index)
        for number, (model, indices) in enumerate(by_model.items()):
            name = f"{pack.start}-{pack.stop}" + (f" {number}" if number else "")
            self._to_send.append(SentMessage(self._job_id(name), answered, indices, model))
        self._send_waiting()

    def answered(self, timeout_seconds: float) -> Iterator[AnsweredPack]:
        """The packs that have all their answers now; waits for news for at most this long."""
        self._send_waiting()
        if not self._answered:
            self._gather(timeout_seconds)
        while self._answered:
            yield self._answered.popleft()

    def clear(self, job_ids: list[str]) -> None:
        """Delete answers that have been written out; those that cannot be reached expire by themselves."""
        try:
            self._listener.delete(job_ids)
        except BrokerUnavailable:
            return

    def close(self) -> None:
        """Give the connections back; what is under way stays so, and is found again under its id."""
        self._listener.close()

    def _gather(self, timeout_seconds: float) -> None:
        try:
            arrived = self._listener.collect(timeout_seconds)
        except BrokerUnavailable as error:
            self._rest(self._results_budget.failed(error))
            return
        self._results_budget.succeeded()
        for job_id, meta in arrived.items():
            self._arrived(self._claimed(job_id), meta)
        try:
            self._look_around()
        except BrokerUnavailable as error:
            self._rest(self._broker_budget.failed(error))

    def _rest(self, pause_seconds: float) -> None:
        """After an outage all is submitted again: that changes nothing where a job is still known."""
        time.sleep(pause_seconds)
        self._to_send.extend(self._sent.values())
        self._sent.clear()

    def _claimed(self, job_id: str) -> SentMessage:
        """The sent of that id, off the list of those waited for."""
        if job_id in self._sent:
            return self._sent.pop(job_id)
        sent = next(sent for sent in self._to_send if sent.job_id == job_id)
        self._to_send.remove(sent)
        return sent

    def _arrived(self, sent: SentMessage, meta: bytes) -> None:
        sent.of.job_ids.append(sent.job_id)
        try:
            answers = read_pack(sent.job_id, meta)
        except RerankError as error:
            if what_next(meta, "failed", math.inf, can_send=True) == "send it again":
                self.clear([sent.job_id])
                self._resend(sent, error)
            else:
                self._failed(sent, error)
            return
        self._take(sent, dict(zip(sent.indices, answers, strict=True)), _MEMBER_TRIES_ALONE)

    def _failed(self, sent: SentMessage, error: RerankError) -> None:
        self._take(sent, dict.fromkeys(sent.indices, error), _WHOLE_PACK_SPLITS)

    def _take(
        self, sent: SentMessage, answers: dict[int, Answer], try_alone: tuple[type[RerankError], ...]
    ) -> None:
        """Keep the answers; what the company in the pack may be to blame for is asked again alone."""
        for index, answer in answers.items():
            if len(sent.indices) > 1 and isinstance(answer, try_alone):
                self._to_send.append(self._alone(sent.of, index))
            else:
                sent.of.answers[index] = answer
        if sent.of.is_complete:
            self._answered.append(sent.of)

    def _alone(self, answered: AnsweredPack, index: int) -> SentMessage:
        pack = answered.pack
        name = f"{pack.entries[index].position} alone of {pack.start}-{pack.stop}"
        return SentMessage(self._job_id(name), answered, [index], pack.model_of(index))

    def _send_waiting(self) -> None:
        while self._to_send and time.monotonic() >= self._hold_until and self._try_send(self._to_send[0]):
            self._to_send.popleft()

    def _try_send(self, sent: SentMessage) -> bool:
        """Whether the sent has left the line, sent or refused for good."""
        self._listener.expect(sent.job_id)
        try:
            self._client.send_pack(sent.of.pack.requests(sent.indices), sent.job_id)
        except QueueFull as error:
            self._hold_until = time.monotonic() + min(error.retry_after_seconds, LONGEST_HOLD_SECONDS)
            return False
        except BrokerUnavailable as error:
            self._hold_until = time.monotonic() + self._broker_budget.failed(error)
            return False
        except RerankError as error:
            self._listener.forget(sent.job_id)
            self._failed(sent, error)
            return True
        self._broker_budget.succeeded()
        sent.sent_at = time.monotonic()
        self._sent[sent.job_id] = sent
        return True

    def _look_around(self) -> None:
        now = time.monotonic()
        if now >= self._workers_at:
            self._workers_at = now + WORKERS_PERIOD_SECONDS
            self._count_workers()
            self._broker_budget.succeeded()
        if now >= self._missed_at:
            self._missed_at = now + MISSED_PERIOD_SECONDS
            self._resend_missed(now)

    def _count_workers(self) -> None:
        self.workers, paused = bulk_workers(self._client), self._client.paused()
        orders = {pause_over(paused, queue_of("bulk", sent.model)) for sent in self._sent.values()}
        self.paused_models = frozenset(order.model for order in orders if order is not None)
        for sent in self._sent.values():
            if not any(worker.may_serve(sent.model) for worker in self.workers):
                self._absence.failed(nobody_there(len(self._sent), sent.model))
                return
        self._absence.succeeded()

    def _resend_missed(self, now: float) -> None:
        """Send again what Redis does not know, although its answer is not there."""
        for sent in [s for s in self._sent.values() if now - s.sent_at > MISSED_PERIOD_SECONDS]:
            state = self._client.status(sent.job_id, is_ours=True).state
            if what_next(None, state, math.inf, can_send=True) == "send it again":
                del self._sent[sent.job_id]
                self._resend(sent, JobUnknown(f"Redis forgot job {sent.job_id} {MOST_RESENDS} times"))

    def _resend(self, sent: SentMessage, error: RerankError) -> None:
        sent.resends += 1
        if sent.resends > MOST_RESENDS:
            self._listener.forget(sent.job_id)
            self._failed(sent, error)
        else:
            self._to_send.append(sent)

    def _job_id(self, what: str) -> str:
        return hashlib.blake2b(f"{self._name} {what}".encode(), digest_size=16).hexdigest()


def bulk_workers(client: RerankClient) -> list[WorkerStatus]:
    """The workers that take bulk work."""
    return [worker for worker in client.workers() if "bulk" in worker.lanes]


def nobody_there(waiting_packs: int, model: str | None = None) -> NoWorkers:
    """No worker takes bulk work, of this model where one is named."""
    wanted = "bulk work" if model is None else f"bulk work for the model {shortened(model)}"
    return NoWorkers(
        f"no worker takes {wanted} ({waiting_packs} packs wait); start one with `rerankq-worker`, then run the same "
        "command again"
    )
