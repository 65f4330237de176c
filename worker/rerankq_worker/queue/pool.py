"""Celery's prefork pool, which notices at once that a child has died.

Knows Celery's pool only.
"""

from typing import Any

from celery.concurrency import prefork
from celery.concurrency.asynpool import AsynPool

REAPED_WITHIN_SECONDS = 0.1


class TaskPool(prefork.TaskPool):
    """For `app.conf.worker_pool`."""

    class Pool(AsynPool):
        """Looks for a dead child twice: when its pipe closes, the kernel is often not done with it.

        Celery looks once, and then only every 5 s: longer than a web caller waits.
        """

        maintain_pool: Any

        def _event_process_exit(self, hub: Any, proc: Any) -> None:
            super()._event_process_exit(hub, proc)
            hub.call_later(REAPED_WITHIN_SECONDS, self.maintain_pool)
