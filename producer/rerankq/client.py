"""Submit rerank jobs, hold their promises, wait for their rankings.

Knows Redis and what its messages look like; needs no Celery, and never loads a model. `aio.py` is the same for asyncio.
"""

import math
import re
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Self

from redis.exceptions import AuthenticationError, OutOfMemoryError, RedisError, ResponseError

from rerankq.answers import JobStatus, is_answer, is_lost, read_pack, read_ranking, read_status
from rerankq.contract import keys
from rerankq.contract.calling_off import call_off
from rerankq.contract.clock import RedisClock
from rerankq.contract.errors import (
    BrokerUnavailable,
    Cancelled,
    DeadlineExceeded,
    InvalidRequest,
    JobUnknown,
    NoWorkers,
    QueueFull,
    RerankError,
    ResultTimeout,
)
from rerankq.contract.heartbeats import WorkerStatus
from rerankq.contract.keys import queue_of
from rerankq.contract.messages import (
    LANES,
    Document,
    Lane,
    Ranking,
    RerankRequest,
    parse_request,
    patience_seconds,
)
from rerankq.contract.stores import redis_client, reply_or
from rerankq.contract.transport.publishing import push
from rerankq.contract.transport.scripts import Script
from rerankq.door import Door
from rerankq.outgoing import Outgoing, check_size, outgoing_job, outgoing_pack
from rerankq.settings import ClientSettings

ANSWER_GRACE_SECONDS = 1.0  # a partial ranking is given at the deadline and must still travel
POLL_SECONDS = 1.0  # pub/sub may drop a message; the answer itself is looked for this often
_RECONNECT_SECONDS = 0.1
_LOOK_AGAIN_SECONDS = 0.02

# KEYS: a job's record; ARGV: fingerprint, seconds to live. 1 for the first of all who submit this id at once.
CLAIM = Script("""
local kind = redis.call('TYPE', KEYS[1]).ok
if kind ~= 'hash' and kind ~= 'none' then redis.call('DEL', KEYS[1]) end
if redis.call('HSETNX', KEYS[1], 'fingerprint', ARGV[1]) == 0 then return 0 end
redis.call('EXPIRE', KEYS[1], ARGV[2])
return 1
""")

Documents = Sequence[str | Document | dict[str, Any]]


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
        given = {"broker_url": broker_url, "result_url": result_url}
        overrides = {name: value for name, value in given.items() if value is not None}
        self.settings = settings or ClientSettings.load(**overrides)
        timeout = self.settings.redis_timeout_seconds
        self._broker = redis_client(self.settings.broker_url.get_secret_value(), timeout)
        self._results = redis_client(self.settings.effective_result_url, timeout)
        self._door = Door(self._broker, self.settings)
        self.clock = self._door.clock

    def rerank(
        self,
        query: str,
        documents: Documents,
        *,
        top_n: int | None = None,
        timeout: float | None = None,
        **options: Any,
    ) -> Ranking:
        """The ranking, waited for; called off when the wait is given up.

        Args:
            timeout: seconds to wait; also the job's deadline. `RERANKQ_INTERACTIVE_TIMEOUT_SECONDS` when absent.
            options: any other field of `RerankRequest`.

        Raises:
            RerankError: whatever kept the ranking from being; see the tree in `rerankq.contract.errors`.
        """
        timeout = patience_seconds(self.settings.interactive_timeout_seconds if timeout is None else timeout)
        options.setdefault("deadline", time.time() + timeout)
        request = self.request(query, documents, top_n=top_n, **options)
        self.require_workers()
        job = self.send(request)
        return wait_or_cancel(job, timeout)

    def submit(
        self,
        query: str,
        documents: Documents,
        *,
        job_id: str | None = None,
        top_n: int | None = None,
        **options: Any,
    ) -> "Job":
        """A promise of the ranking. Once this returns, the job ends in exactly one ranking or named error.

        Args:
            job_id: a name of your own; submitting it again gives the same job and no second scoring.
            options: any other field of `RerankRequest`, say `lane="bulk"` or `deadline=time.time() + 60`.

        Raises:
            InvalidRequest, QueueFull, BrokerUnavailable: nothing was accepted.
        """
        return self.send(self.request(query, documents, top_n=top_n, **options), job_id)

    def request(self, query: str, documents: Documents, **options: Any) -> RerankRequest:
        """A validated request, within the limits of the settings.

        Raises:
            InvalidRequest: naming the field and what is wrong with it.
        """
        request = parse_request({"query": query, "documents": documents, **options})
        self.settings.limits.check(request)
        return request

    def send(self, request: RerankRequest, job_id: str | None = None) -> "Job":
        """Put a validated request on its lane."""
        message = outgoing_job(request, job_id, self._clock_just_read())
        self.deliver(message)
        return Job(self, message.job_id, request.texts if request.return_documents else None, message)

    def send_pack(self, requests: Sequence[RerankRequest], pack_id: str | None = None) -> "Pack":
        """Put several requests on their lane as one message: about ten times the jobs per second."""
        message = outgoing_pack(requests, pack_id, self._clock_just_read())
        self.deliver(message)
        return Pack(self, message.job_id, message=message)

    def job(self, job_id: str) -> "Job":
        """The promise of a job that was submitted elsewhere or earlier."""
        return Job(self, job_id)

    def workers(self) -> list[WorkerStatus]:
        """The workers heard of in the last seconds."""
        with _broker_errors("asking for workers"):
            return list(self._door.surroundings(max_age_seconds=0.2).workers)

    def lanes(self) -> dict[Lane, int]:
        """Jobs that wait in each lane."""
        with _broker_errors("asking for lanes"):
            return {lane: self._door.waiting(lane) for lane in LANES}

    def close(self) -> None:
        """Give the connections back."""
        self._broker.close()
        self._results.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def deliver(self, message: Outgoing) -> None:
        """Admit, record and publish one message; a message that was delivered before is left alone.

        Raises:
            InvalidRequest: the job id belongs to another request.
            QueueFull, BrokerUnavailable: nothing was accepted.
        """
        check_size(message, self.settings.max_payload_bytes)
        with _broker_errors(f"submitting job {message.job_id}"):
            self._door.admit(message.lane)
            if self._record(message):
                self._publish(message)

    def keep_open(self, job_id: str, record: Mapping[bytes, bytes]) -> None:
        """Have workers miss the job's message even if the index of open jobs has vanished, perhaps with the message.

        Args:
            record: the job's, as `read` gives it.
        """
        pushed = int(record.get(b"published", 0))
        if pushed <= 1 or b"answered" in record:  # 1: by a client of before, which kept no index
            return
        lane: Any = record[b"lane"].decode()
        with suppress(ResponseError):  # a full Redis, or a user without the right
            self._broker.zadd(keys.open_jobs(queue_of(lane)), {job_id: pushed}, nx=True)

    def read(self, job_id: str) -> tuple[bytes | None, dict[bytes, bytes], bool]:
        """What Redis holds of a job: Celery's record, our record, whether it was called off."""
        pipeline = self._broker.pipeline(transaction=False)
        pipeline.hgetall(keys.job(job_id))
        pipeline.exists(keys.cancel(job_id))
        pipeline.time()
        asked_at = time.monotonic()
        record, cancelled, now = pipeline.execute(raise_on_error=False)
        self.clock.learn(reply_or(now, None), asked_at)
        # Read last: a job that ends in between has its answer seen.
        meta: Any = self._results.get(keys.result(job_id))
        return meta, reply_or(record, {}) or self.record_of_the_lost(job_id), bool(reply_or(cancelled, 0))

    def status(self, job_id: str) -> JobStatus:
        """Where a job stands.

        Raises:
            BrokerUnavailable: Redis did not answer.
        """
        with _broker_errors(f"asking for job {job_id}"):
            meta, record, cancelled = self.read(job_id)
            if meta is None:
                self.keep_open(job_id, record)
            return read_status(job_id, meta, record, cancelled, self.clock)

    def cancel(self, job_id: str) -> None:
        """Call a job off: before it starts, or between its batches. A job that is done stays done."""
        with _broker_errors(f"cancelling job {job_id}"):
            call_off(self._broker, job_id)

    def await_answer(
        self, job_id: str, timeout: float | None, is_sent_again: Callable[[bytes | None], bool]
    ) -> bytes:
        """Celery's record of a job's end.

        Args:
            is_sent_again: whether the job goes on although its answer is this one, or Redis knows nothing of it (None).

        Raises:
            ResultTimeout: it was not there in time.
            JobUnknown, Cancelled, BrokerUnavailable
        """
        timeout = math.inf if timeout is None else patience_seconds(timeout)
        give_up_at = time.monotonic() + timeout
        while True:
            try:
                with self._results.pubsub(ignore_subscribe_messages=True) as subscription:
                    subscription.subscribe(keys.result(job_id))
                    return self._listen(job_id, subscription, give_up_at, timeout, is_sent_again)
            except RedisError as error:  # a restarting Redis is ridden out within the caller's own patience
                if time.monotonic() + _RECONNECT_SECONDS > give_up_at:
                    raise BrokerUnavailable(f"Redis did not answer while waiting for job {job_id}") from error
                time.sleep(_RECONNECT_SECONDS)

    def _listen(
        self,
        job_id: str,
        subscription: Any,
        give_up_at: float,
        timeout: float,
        is_sent_again: Callable[[bytes | None], bool],
    ) -> bytes:
        began_at = time.monotonic()
        while True:
            meta, record, cancelled = self.read(job_id)
            left = give_up_at - time.monotonic()
            if meta is None or not is_answer(meta):
                status = read_status(job_id, meta, record, cancelled, self.clock)
                if status.state != "unknown" or left <= 0 or not is_sent_again(None):
                    refuse_to_wait(status)
            elif left <= 0 or not is_sent_again(meta):
                return meta
            if left <= 0:
                raise no_answer_yet(job_id, timeout)
            if meta is None and time.monotonic() - began_at > POLL_SECONDS / 2:
                self.keep_open(job_id, record)
            subscription.get_message(timeout=min(left, POLL_SECONDS))

    def require_workers(self) -> None:
        """Refuse to ask where nobody is there to answer.

        Raises:
            NoWorkers: nothing was accepted.
        """
        with _broker_errors("asking for workers"):
            if self._door.surroundings().workers:
                return
            if self._door.surroundings(max_age_seconds=0).workers:
                return
        raise NoWorkers(
            "no worker has been heard of in the last "
            f"{keys.HEARTBEAT_TTL_SECONDS} s; start one with `rerankq-worker`, or `submit` the job and let it wait"
        )

    def _clock_just_read(self) -> RedisClock:
        """Redis's clock as of the door's last look around, which admission needs anyway."""
        with _broker_errors("submitting a job"):
            self._door.surroundings()
        return self.clock

    def _record(self, message: Outgoing) -> bool:
        """Note the job before it is published; False when the very same job was published already."""
        key = keys.job(message.job_id)
        if not CLAIM(self._broker, [key], [message.fingerprint, keys.JOB_TTL_SECONDS]):
            known: Any = self._broker.hgetall(key)
            if known.get(b"fingerprint", b"").decode() not in ("", message.fingerprint):
                raise InvalidRequest(
                    f"job id {message.job_id} belongs to another request; choose another id",
                    {"field": "job_id"},
                )
            if self._is_under_way(message.job_id, b"answered" in known):
                self.keep_open(message.job_id, known)
                return False
            # That of a job that Redis lost shall not be taken for the answer to come.
            self._results.delete(keys.result(message.job_id))
        pipeline = self._broker.pipeline()
        pipeline.delete(key, keys.cancel(message.job_id))
        pipeline.hset(key, mapping=message.record())
        pipeline.expire(key, keys.JOB_TTL_SECONDS)
        if message.payload is not None:
            pipeline.set(keys.payload(message.job_id), message.payload, ex=keys.JOB_TTL_SECONDS)
        pipeline.execute()
        return True

    def _is_under_way(self, job_id: str, is_answered: bool) -> bool:
        """Whether the job has an answer or will have one; somebody submitting it right now gets a moment to finish."""
        meta: Any = self._results.get(keys.result(job_id))
        if is_answered or meta is not None:
            return meta is not None and not is_lost(meta)  # what has expired or was lost is made anew
        give_up_at = time.monotonic() + self.settings.redis_timeout_seconds
        while not self._broker.hexists(keys.job(job_id), "published"):
            if time.monotonic() >= give_up_at:
                return False
            time.sleep(_LOOK_AGAIN_SECONDS)
        return True

    def record_of_the_lost(self, job_id: str) -> dict[bytes, bytes]:
        """What can be said of a job whose record is gone, evicted perhaps, while its message is not; else nothing."""
        with suppress(ResponseError):  # a user without the right to ask
            for lane in LANES:
                if self._broker.zscore(keys.open_jobs(queue_of(lane)), job_id) is not None:
                    return {b"lane": lane.encode()}
        return {}

    def _publish(self, message: Outgoing) -> None:
        try:
            push(self._broker, message.queue, message.message())
        except Exception:
            self._forget(message)
            raise

    def _forget(self, message: Outgoing) -> None:
        """Leave no trace of a job that was not accepted; what cannot be reached expires by itself."""
        try:
            self._broker.delete(keys.job(message.job_id), keys.payload(message.job_id))
        except RedisError:
            return


class Job:
    """A promise of one ranking; may be picked up in another process by its `job_id`."""

    def __init__(
        self,
        client: RerankClient,
        job_id: str,
        texts: Sequence[str] | None = None,
        message: Outgoing | None = None,
    ) -> None:
        self.job_id = job_id
        self._client = client
        self._texts = texts
        self._message = message

    def __repr__(self) -> str:
        return f"Job({self.job_id!r})"

    def status(self) -> JobStatus:
        """Where the job stands: queued, running, done, failed, dead, cancelled, expired or unknown."""
        return self._client.status(self.job_id)

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
        return self.ranking_in(self._client.await_answer(self.job_id, timeout, self.is_sent_again))

    def ranking_in(self, meta: bytes) -> Ranking:
        """The ranking in Celery's record of the job's end.

        Raises:
            RerankError: the job did not end in a ranking.
        """
        ranking = read_ranking(self.job_id, meta)
        return ranking if self._texts is None else ranking.with_documents(self._texts)

    def is_sent_again(self, meta: bytes | None) -> bool:
        """Whether Redis lost the job, as its answer says or the lack of any, and it went out once more from here."""
        if self._message is None or (meta is not None and not is_lost(meta)):
            return False
        try:
            self._client.deliver(self._message)
        except RerankError:
            return False
        return True


class Pack(Job):
    """A promise of several answers that travel together."""

    def answers(self, timeout: float | None = None) -> list[Ranking | RerankError]:
        """One ranking or one error for each request of the pack, in its order."""
        return read_pack(self.job_id, self._client.await_answer(self.job_id, timeout, self.is_sent_again))


def wait_or_cancel(job: Job, timeout: float) -> Ranking:
    """The job's ranking; whoever stops waiting calls it off, so that nothing is scored for nobody."""
    try:
        return job.result(timeout + ANSWER_GRACE_SECONDS)
    except ResultTimeout as error:
        job.cancel()
        raise given_up(job.job_id, timeout) from error
    except (KeyboardInterrupt, GeneratorExit):
        job.cancel()
        raise


def no_answer_yet(job_id: str, timeout: float) -> ResultTimeout:
    """The caller's wait ran out; the job did not."""
    return ResultTimeout(
        f"no answer for job {job_id} within {timeout:g} s; it may still finish: `rerankq status {job_id}` tells"
    )


def given_up(job_id: str, timeout: float) -> DeadlineExceeded:
    """The caller's wait ran out and with it the job."""
    return DeadlineExceeded(
        f"no answer for job {job_id} within {timeout:g} s; it was called off", {"job_id": job_id}
    )


def refuse_to_wait(status: JobStatus) -> None:
    """Say at once that no answer will come.

    Raises:
        JobUnknown, Cancelled
    """
    if status.state == "unknown":
        raise JobUnknown(f"job {status.job_id} is not known; it never was, or its answer has expired")
    if status.state == "cancelled":
        raise Cancelled(f"job {status.job_id} was cancelled")


@contextmanager
def _broker_errors(doing: str) -> Generator[None]:
    """Let Redis's own errors arrive as ours."""
    try:
        yield
    except OutOfMemoryError as error:
        raise QueueFull(
            "the broker's memory is full; try again in 5 s", {"retry_after_seconds": 5.0}
        ) from error
    except RedisError as error:
        if isinstance(error, ResponseError) and "OOM" in str(error):
            raise QueueFull(
                "the broker's memory is full; try again in 5 s", {"retry_after_seconds": 5.0}
            ) from error
        raise BrokerUnavailable(f"Redis {_what_it_did(error, doing)}") from error


def _what_it_did(error: Exception, doing: str) -> str:
    """Of an error reply its code alone: the rest may quote what was sent."""
    code = re.search(r"\b[A-Z]{4,}\b", str(error))
    if code is not None or isinstance(error, ResponseError | AuthenticationError):
        return f"refused while {doing}: {code[0] if code else type(error).__name__}"
    return f"did not answer while {doing}: {type(error).__name__}"
