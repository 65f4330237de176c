"""The Celery app that Flower watches: `celery -A rerankq_flower flower --conf=flowerconfig.py`.

Speaks the same wire as producers and workers; knows no task and no model.
"""

from rerankq.contract.broker import celery_app
from rerankq.settings import ClientSettings

REDIS_TIMEOUT_SECONDS = 5.0  # Flower waits in the background; a slow answer is better than none

_settings = ClientSettings.load()

app = celery_app(
    "rerankq",
    _settings.broker_url.get_secret_value(),
    _settings.effective_result_url,
    socket_timeout_seconds=REDIS_TIMEOUT_SECONDS,
)
