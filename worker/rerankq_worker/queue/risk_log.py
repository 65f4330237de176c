"""Says in the worker's log what may lose jobs in Redis: once when it begins, once when it is over.

Knows Redis and Celery's timer; knows nothing of jobs.
"""

import logging
from typing import Any, ClassVar

from celery import bootsteps
from redis.exceptions import RedisError

from rerankq.contract.risks import read_risks, redis_clients
from rerankq_worker.settings import WorkerSettings

PERIOD_SECONDS = 60.0
TIMEOUT_SECONDS = 1.0  # the main process renews leases too and must not hang

logger = logging.getLogger(__name__)


class RiskLog(bootsteps.StartStopStep):
    """Looks at the start of the worker and every minute."""

    requires: ClassVar[set[str]] = {"celery.worker.components:Timer"}

    def __init__(self, parent: Any, **kwargs: Any) -> None:
        super().__init__(parent, **kwargs)
        self._stores = redis_clients(WorkerSettings.load(), TIMEOUT_SECONDS)
        self._said: dict[tuple[str, str], str] = {}
        self._timer: Any = None

    def start(self, parent: Any) -> None:
        """Look now, and again and again."""
        self._look()
        self._timer = parent.timer.call_repeatedly(PERIOD_SECONDS, self._look)

    def stop(self, parent: Any) -> None:  # noqa: ARG002 - Celery's signature
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        """Say what is new; a Redis that does not answer is looked at next time."""
        for store, redis in self._stores.items():
            try:
                found = {(store, risk.name): risk.text for risk in read_risks(redis)}
            except RedisError as error:
                logger.debug("the %s Redis did not say what it may lose: %s", store, type(error).__name__)
                continue
            said = {key for key in self._said if key[0] == store}
            for key in found.keys() - said:
                logger.warning("the %s Redis may lose what it holds: %s", store, found[key])
            for _, name in said - found.keys():
                logger.info("the %s Redis: %s is over", store, name)
            self._said = {key: text for key, text in self._said.items() if key[0] != store} | found
