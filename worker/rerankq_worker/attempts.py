"""What the Celery parent does with a message before and beside its task."""

from typing import Any

from celery.worker import consumer as celery_consumer
from celery.worker.state import active_requests

from rerankq.contract import transport


class Consumer(celery_consumer.Consumer):
    """Celery's consumer, which keeps running jobs through an outage of Redis."""

    def on_connection_error_after_connected(self, exc: Exception) -> Any:
        transport.carry_over(
            request.message for request in tuple(active_requests) if not request.acknowledged
        )
        return super().on_connection_error_after_connected(exc)
