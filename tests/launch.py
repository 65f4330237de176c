"""`rerankq-worker` but for what its environment names: a Celery app with traps (`LAUNCHED_APP`), less patience with the
silent (`SILENT_AFTER_SECONDS`; less than a third of it for who is cut off from Redis, as in the worker itself).
"""

import os
import sys

from rerankq_worker import __main__
from rerankq_worker.host import launcher
from rerankq_worker.link import health

if __name__ == "__main__":
    launcher.CELERY = (*launcher.CELERY[:-1], os.environ.get("LAUNCHED_APP", launcher.CELERY[-1]))
    if silent_after := os.environ.get("SILENT_AFTER_SECONDS"):
        health.BEAT_SILENT_AFTER_SECONDS = float(silent_after)
        health.CUT_OFF_AFTER_SECONDS = float(silent_after) * 0.3
    sys.exit(__main__.main())
