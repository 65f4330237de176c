"""The worker's own app, which tells how it is, and looks what it was ordered, ten times as often."""

from rerankq_worker.app import app
from rerankq_worker.queue import heartbeat

heartbeat.HEARTBEAT_PERIOD_SECONDS = 0.3

__all__ = ["app"]
