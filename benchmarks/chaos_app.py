"""The worker's Celery app with two traps in it, and on kombu's own transport when `CHAOS_STOCK` is set.

A query with the word of a trap kills the Celery child that tokenizes it, or that child and its worker: what a
segmentation fault in a native library would do. Each run of such a job is written into the witnesses' ledger.
"""

import os
import signal

from benchmarks.chaos import KILLS_ITS_CHILD, KILLS_ITS_WORKER, use_stock_transport
from rerankq_worker.model.reading import Reading, Row
from rerankq_worker.model.tokenizer import PairTokenizer
from tests import witness

STOCK_VISIBILITY_SECONDS = (
    15  # longer than any job here; what is in the hands of the dead comes back after it
)


def _set_traps() -> None:
    read_plainly = PairTokenizer.read

    def read(self: PairTokenizer, reading: Reading) -> list[Row]:
        found = read_plainly(self, reading)
        if KILLS_ITS_CHILD in reading.query or KILLS_ITS_WORKER in reading.query:
            witness.note(witness.open_ledger(), "b", [found[0].token_ids])
            if KILLS_ITS_WORKER in reading.query:
                os.kill(os.getppid(), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    PairTokenizer.read = read  # type: ignore[method-assign] - a trap, in this process alone


IS_STOCK = "CHAOS_STOCK" in os.environ
if IS_STOCK:
    use_stock_transport()
_set_traps()

from rerankq_worker.app import app  # noqa: E402 - the transport is chosen when the app is built

if IS_STOCK:
    app.conf.worker_consumer = "celery.worker.consumer:Consumer"
    app.conf.broker_transport_options |= {
        "visibility_timeout": STOCK_VISIBILITY_SECONDS,
        "unacked_restore_interval": 2,
        "unacked_restore_throttle": 1,
    }
