"""Submit rerank jobs, hold their promises, wait for their rankings.

Knows Redis and what its messages look like; needs no Celery, and never loads a model. `aio.py` is the same for asyncio.
"""

import contextlib
import time
from collections.abc import Generator, Sequence
from typing import Any, Self, TypeVar, Unpack

from rerankq.admission import Admission, waiting
from rerankq.answers import JobStatus, Meta, read_pack, read_ranking
from rerankq.contract.errors import RerankError, ResultTimeout
from rerankq.contract.heartbeats import WorkerStatus
from rerankq.contract.messages import (
    LANES,
    Documents,
    Lane,
    Ranking,
    RequestOptions,
    RerankRequest,
    as_seconds,
)
from rerankq.contract.orders import Pauses
from rerankq.contract.redis_clients import redis_client
from rerankq.procedures import Ask, Listen, Pause, Procedure, Step, ask_one, errors_as_ours, run
from rerankq.settings import ClientSettings
from rerankq.submission import (
    Submission,
    as_asked,
    askable_id,
    deliver,
    job_submission,
    pack_submission,
    take_back,
    validated,
)
from rerankq.thread_connections import Connections, Listeners, Watch
from rerankq.waiting import (
    ANSWER_GRACE_SECONDS,
    answer_of,
    call_off,
    given_up,
    listened_for,
    look_and_keep,
    may_leave_a_job,
)

T = TypeVar("T")


class RerankClient:
    """Asks a rerankq service; thread-safe, cheap to keep, one per process.

    ```python
    with RerankClient("redis://127.0.0.1:6379/0") as client:
        ranking = client.rerank("capital of China", ["Beijing is ...", "Shanghai is ..."], top_n=1)
        print(ranking.results[0].index, ranking.results[0].relevance_score)
    ```
    """

    def __init__(
        self,
        broker_url: str | None = None,
        *,
        result_url: str | None = None,
        settings: ClientSettings | None = None,
    ) -> None:
        self.settings = settings or ClientSettings.of(broker_url, result_url)
        broker_url, result_url = (
            self.settings.broker_url.get_secret_value(),
            self.settings.effective_result_url,
        )
        broker, results = (
            redis_client(url, self.settings.redis_timeout_seconds) for url in (broker_url, result_url)
        )
        self._broker = Connections(broker)
        self._results = self._broker if broker_url == result_url else Connections(results)
        self._listeners = Listeners(results)
        self._admission = Admission(self.settings)
        self.clock = self._admission.clock

    def rerank(
        self,
        query: str,
        documents: Documents,
        *,
        timeout: float | None = None,
        **options: Unpack[RequestOptions],
    ) -> Ranking:
        """The ranking, waited for; called off when the wait is given up.

        Args:
            timeout: seconds to wait; also the job's deadline. `RERANKQ_INTERACTIVE_TIMEOUT_SECONDS` when absent.
            options: `top_n=5`, `on_deadline="partial"`, …: the fields of `RerankRequest`.

        Raises:
            RerankError: whatever kept the ranking from being; see the tree in `rerankq.contract.errors`.
        """
        timeout = as_seconds(self.settings.interactive_timeout_seconds if timeout is None else timeout)
        give_up_at = time.monotonic() + timeout + ANSWER_GRACE_SECONDS
        options.setdefault("deadline", time.time() + timeout)
        request = self.request(query, documents, **options)
        self._run("asking for workers", self._admission.require_workers(request.model))
        message = job_submission(request, None, self.clock)
        with self.watching(message.job_id, is_early=True) as watch:
            try:
                self.deliver(message, watch)
                left = give_up_at - time.monotonic()
                return self._promise(message).wait(watch, left, ANSWER_GRACE_SECONDS)
            except BaseException as error:
                self._take_back(message, error)
                if isinstance(error, ResultTimeout):
                    raise given_up(message.job_id, timeout, error) from error
                raise

    def submit(
        self,
        query: str,
        documents: Documents,
        *,
        job_id: str | None = None,
        **options: Unpack[RequestOptions],
    ) -> "Job":
        """A promise of the ranking. Once this returns, the job ends in exactly one ranking or named error.

        Args:
            job_id: a name of your own; submitting it again gives the same job and no second scoring.
            options: the fields of `RerankRequest`, say `lane="bulk"` or `deadline=time.time() + 60`.

        Raises:
            InvalidRequest, QueueFull, BrokerUnavailable: nothing was accepted.
        """
        return self.send(self.request(query, documents, **options), job_id)

    def request(self, query: str, documents: Documents, **options: Unpack[RequestOptions]) -> RerankRequest:
        """A validated request, within the limits of the settings.

        Raises:
            InvalidRequest: naming the field and what is wrong with it.
        """
        return validated({"query": query, "documents": documents, **options}, self.settings)

    def send(self, request: RerankRequest, job_id: str | None = None) -> "Job":
        """Put a validated request on its lane."""
        self._learn_the_time()
        message = job_submission(request, job_id, self.clock)
        try:
            self.deliver(message)
            return self._promise(message)
        except BaseException as error:
            self._take_back(message, error)
            raise

    def send_pack(self, requests: Sequence[RerankRequest], pack_id: str | None = None) -> "Pack":
        """Put several requests on their lane as one message: about ten times the jobs per second."""
        self._learn_the_time()
        message = pack_submission(requests, pack_id, self.clock)
        self.deliver(message)
        return Pack(self, message.job_id, message)

    def job(self, job_id: str) -> "Job":
        """The promise of a job that was submitted elsewhere or earlier."""
        return Job(self, askable_id(job_id))

    def workers(self) -> list[WorkerStatus]:
        """The workers heard of in the last seconds."""
        around = self._run("asking for workers", self._admission.surroundings(max_age_seconds=0.2))
        return list(around.workers)

    def paused(self) -> Pauses:
        """The lanes of which no worker takes a job until `rerankq resume`, each with the order that paused it."""
        return self._run("asking for paused lanes", self._admission.surroundings(max_age_seconds=0.2)).pauses

    def lanes(self) -> dict[Lane, int]:
        """Jobs that wait in each lane, whichever model they name."""
        found = self.model_lanes()
        return {lane: sum(jobs for (each, _), jobs in found.items() if each == lane) for lane in LANES}

    def model_lanes(self) -> dict[tuple[Lane, str | None], int]:
        """Jobs that wait in each lane by the model that they name; under None those that name none."""
        return self._run("asking for lanes", waiting())

    def close(self) -> None:
        """Give the connections back; whoever is waiting in another thread still gets an answer."""
        for connections in (self._broker, self._results, self._listeners):
            connections.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def deliver(self, message: Submission, watch: Watch | None = None) -> None:
        """Admit, record and publish one message; a message that was delivered before is left alone.

        Args:
            watch: listens for the job's end from before it is sent.

        Raises:
            InvalidRequest: the job id belongs to another request.
            QueueFull, BrokerUnavailable: nothing was accepted.
        """
        procedure = deliver(message, self._admission, self.settings)
        if watch is not None:
            procedure = listened_for(procedure)
        self._run(f"submitting job {message.job_id}", procedure, watch)

    def status(self, job_id: str, *, is_ours: bool = False) -> JobStatus:
        """Where a job stands.

        Args:
            is_ours: a client like this submitted it, which leaves a trace; without one it is unknown. Else it is
                taken for queued while messages of any other Celery client wait, for it may be among them.

        Raises:
            BrokerUnavailable: Redis did not answer.
        """
        return self._run(f"asking for job {job_id}", look_and_keep(job_id, self.clock, is_ours=is_ours))

    def cancel(self, job_id: str) -> None:
        """Call a job off: before it starts, or between its batches. A job that is done stays done."""
        self._run(f"cancelling job {job_id}", call_off(job_id))

    @contextlib.contextmanager
    def watching(self, job_id: str, *, is_early: bool = False) -> Generator[Watch]:
        """Watch for a job's end."""
        with contextlib.closing(Watch(self._listeners, job_id, is_early=is_early)) as watch:
            yield watch

    def await_answer(
        self,
        job_id: str,
        timeout: float | None,
        message: Submission | None,
        watch: Watch,
        grace_seconds: float = 0.0,
    ) -> Meta:
        """Celery's record of a job's end.

        Args:
            timeout, grace_seconds: as `answer_of` has them.
            message: the job's own, if at hand: sent again where Redis lost it.
            watch: of this job.

        Raises:
            ResultTimeout: it was not there in time.
            JobUnknown, Cancelled, BrokerUnavailable
        """
        again = None if message is None else lambda: deliver(message, self._admission, self.settings)
        procedure = answer_of(job_id, timeout, self.clock, again, grace_seconds, is_heard_of=watch.is_early)
        return self._run(f"waiting for job {job_id}", procedure, watch)

    def _promise(self, message: Submission) -> "Job":
        return Job(self, message.job_id, message)

    def _take_back(self, message: Submission, error: BaseException) -> None:
        """Leave no job behind that nobody waits for."""
        if may_leave_a_job(error):
            with contextlib.suppress(RerankError):
                self._run("taking a job back", ask_one(*take_back(message)))

    def _learn_the_time(self) -> None:
        """Redis's, as of the look around that admission needs anyway."""
        self._run("submitting a job", self._admission.surroundings())

    def _run(self, doing: str, procedure: Procedure[T], watch: Watch | None = None) -> T:
        with errors_as_ours(doing, self.settings) as tried:
            return run(procedure, lambda step: self._do(tried(step), watch))

    def _do(self, step: Step, watch: Watch | None) -> Any:
        match step:
            case Ask(commands, of):
                return (self._broker if of == "broker" else self._results).ask(commands)
            case Listen(seconds):
                return None if watch is None else watch.hear(seconds)
            case Pause(seconds):
                return time.sleep(seconds)


class Job:
    """A promise of one ranking; may be picked up in another process by its `job_id`."""

    def __init__(self, client: RerankClient, job_id: str, message: Submission | None = None) -> None:
        self.job_id = job_id
        self._client = client
        self.message = message

    def __repr__(self) -> str:
        return f"Job({self.job_id!r})"

    def status(self) -> JobStatus:
        """Where the job stands: queued, running, done, failed, dead, cancelled, expired or unknown."""
        return self._client.status(self.job_id, is_ours=self.message is not None)

    def progress(self) -> tuple[int, int]:
        """Documents scored so far, and documents in all."""
        status = self.status()
        return status.scored, status.total

    def done(self) -> bool:
        """Whether an answer is there, be it a ranking or an error."""
        return self.status().state not in ("queued", "running", "unknown")

    def cancel(self) -> None:
        """Call the job off."""
        self._client.cancel(self.job_id)

    def result(self, timeout: float | None = None) -> Ranking:
        """The ranking, waited for.

        Args:
            timeout: seconds; waits as long as it takes when absent.

        Raises:
            ResultTimeout: not there yet; the job goes on.
            RerankError: the job did not end in a ranking.
        """
        with self._client.watching(self.job_id) as watch:
            return self.wait(watch, timeout)

    def wait(self, watch: Watch, timeout: float | None, grace_seconds: float = 0.0) -> Ranking:
        """The ranking, taken when it is announced, and looked for now and then in case that was missed."""
        meta = self._client.await_answer(self.job_id, timeout, self.message, watch, grace_seconds)
        return as_asked(read_ranking(self.job_id, meta), self.message)


class Pack(Job):
    """A promise of several answers that travel together."""

    def answers(self, timeout: float | None = None) -> list[Ranking | RerankError]:
        """One ranking or one error for each request of the pack, in its order."""
        with self._client.watching(self.job_id) as watch:
            meta = self._client.await_answer(self.job_id, timeout, self.message, watch)
        return read_pack(self.job_id, meta)
