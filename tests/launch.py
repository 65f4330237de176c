"""The real launcher with another Celery app than the worker's own, named by `LAUNCHED_APP`: for apps with traps."""

import os
import sys

from rerankq_worker import __main__, launcher

if __name__ == "__main__":
    launcher.CELERY = (*launcher.CELERY[:-1], os.environ["LAUNCHED_APP"])
    sys.exit(__main__.main([]))
