"""Answers of many jobs at once: one pub/sub connection, and a look at every outstanding key now and then.

Knows Celery's result keys; not what an answer says.
"""

import contextlib
import time
from collections.abc import Iterable
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from rerankq.answers import is_answer
from rerankq.contract import keys
from rerankq.contract.redis_clients import redis_client
from rerankq.procedures import errors_as_ours
from rerankq.settings import ClientSettings

LOOK_PERIOD_SECONDS = 0.25  # pub/sub may drop a message; the answers themselves are looked for this often
_DELETE_PER_CALL = 500


class AnswerListener:
    """Waits for the answers of the jobs it is told of."""

    def __init__(self, settings: ClientSettings) -> None:
        self._settings = settings
        self._results = redis_client(settings.effective_result_url, settings.redis_timeout_seconds)
        self._awaited: dict[str, str] = {}
        """Job id by result key, which is also its channel."""
        self._pubsub: Any = None
        self._look_at = 0.0

    def expect(self, job_id: str) -> None:
        """From now on, wait for this job too."""
        key = keys.result(job_id)
        if key in self._awaited:
            return
        self._awaited[key] = job_id
        if self._pubsub is not None:
            self._try_pubsub("subscribe", key)

    def forget(self, job_id: str) -> None:
        """Do not wait for this job any more."""
        key = keys.result(job_id)
        if self._awaited.pop(key, None) is not None:
            self._try_pubsub("unsubscribe", key)

    def collect(self, timeout_seconds: float) -> dict[str, bytes]:
        """The answers that have come, by job id; waits for a first one, then takes what else is there.

        Raises:
            BrokerUnavailable: Redis did not answer.
        """
        with errors_as_ours(f"waiting for {len(self._awaited)} packs", self._settings, "results"):
            found = self._heard_or_seen(timeout_seconds)
        for job_id in found:
            self.forget(job_id)
        return found

    def delete(self, job_ids: Iterable[str]) -> None:
        """Take answers that have been written out from Redis, so that they do not fill it.

        Raises:
            BrokerUnavailable: Redis did not answer; they will expire by themselves.
        """
        names = [keys.result(job_id) for job_id in job_ids]
        with errors_as_ours("deleting answers", self._settings, "results"):
            for start in range(0, len(names), _DELETE_PER_CALL):
                self._results.unlink(*names[start : start + _DELETE_PER_CALL])

    def close(self) -> None:
        """Give the connections back."""
        self._hang_up()
        self._results.close()

    def _heard_or_seen(self, timeout_seconds: float) -> dict[str, bytes]:
        try:
            found = self._announced(timeout_seconds)
            return found if time.monotonic() < self._look_at else found | self._look()
        except (RedisError, OSError) as error:
            self._hang_up()
            raise error if isinstance(error, RedisError) else RedisConnectionError() from error

    def _announced(self, timeout_seconds: float) -> dict[str, bytes]:
        pubsub = self._listening()
        found: dict[str, bytes] = {}
        message = pubsub.get_message(timeout=timeout_seconds)
        while message is not None:
            self._open(message, found)
            message = pubsub.get_message(timeout=0)
        return found

    def _open(self, message: dict[str, Any], found: dict[str, bytes]) -> None:
        job_id = self._awaited.get(message["channel"].decode())
        if message["type"] == "message" and job_id is not None and is_answer(message["data"]):
            found[job_id] = message["data"]

    def _look(self) -> dict[str, bytes]:
        self._look_at = time.monotonic() + LOOK_PERIOD_SECONDS
        awaited = list(self._awaited.items())
        if not awaited:
            return {}
        metas: Any = self._results.mget([key for key, _ in awaited])
        pairs = zip(awaited, metas, strict=True)
        return {job_id: meta for (_, job_id), meta in pairs if meta is not None and is_answer(meta)}

    def _listening(self) -> Any:
        """The subscription to all that is awaited; made anew after an outage, when answers may have been missed."""
        if self._pubsub is None:
            self._pubsub = self._results.pubsub()
            # A channel that nobody uses keeps the connection open while nothing is awaited. It is named as an answer
            # is, since a producer may listen to nothing else.
            self._pubsub.subscribe(keys.result(""), *self._awaited)
            self._look_at = 0.0
        return self._pubsub

    def _try_pubsub(self, command: str, key: str) -> None:
        try:
            if self._pubsub is not None:
                getattr(self._pubsub, command)(key)
        except (RedisError, OSError):
            self._hang_up()  # the next `collect` listens anew, and looks

    def _hang_up(self) -> None:
        if self._pubsub is not None:
            with contextlib.suppress(RedisError, OSError):
                self._pubsub.close()
            self._pubsub = None
