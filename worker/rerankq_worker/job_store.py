"""What the worker keeps of a job in Redis while it runs: its record, its checkpoint, whether it was called off."""

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from redis import Redis

from rerankq.contract import keys, wire
from rerankq.contract.errors import JobFailed, PayloadTooLarge
from rerankq.contract.messages import Lane
from rerankq_worker.ranking import Logits


class JobStore:
    """The records of jobs, on the broker's Redis."""

    def __init__(self, broker: "Redis", max_payload_bytes: int, result_ttl_seconds: int) -> None:
        self._broker = broker
        self._max_payload_bytes = max_payload_bytes
        self._result_ttl_seconds = result_ttl_seconds

    def payload(self, key: str) -> dict[str, Any]:
        """The body that travelled beside its message.

        Raises:
            JobFailed: it is gone.
            PayloadTooLarge: it unpacks to more than the settings allow.
        """
        packed: Any = self._broker.get(key)
        if packed is None:
            raise JobFailed("the job's payload is gone from Redis; submit the job again", {"where": "job"})
        body = wire.decompress_bounded(packed, self._max_payload_bytes)
        if body is None:
            raise PayloadTooLarge(
                f"expected a payload of at most {self._max_payload_bytes:,} bytes, got more"
            )
        return wire.decode(body)

    def submitted(self, job_id: str) -> float | None:
        """When the job was submitted, Unix seconds; None for a producer that keeps no record."""
        submitted: Any = self._broker.hget(keys.job(job_id), "submitted")
        return None if submitted is None else float(submitted)

    def start(self, job_id: str, lane: str, worker: str, attempt: int, total: int) -> None:
        """Note that the job runs, and where."""
        key = keys.job(job_id)
        fields: dict[Any, Any] = {
            "lane": lane,
            "worker": worker,
            "attempts": attempt,
            "total": total,
            "started": time.time(),
        }
        pipeline = self._broker.pipeline()
        pipeline.hset(key, mapping=fields)
        pipeline.expire(key, keys.JOB_TTL_SECONDS)
        pipeline.execute()

    def cancelled(self, job_id: str) -> bool:
        """Whether somebody called the job off."""
        return bool(self._broker.exists(keys.cancel(job_id)))

    def save_checkpoint(self, job_id: str, logits: Logits) -> None:
        """Keep the scores so far (NaN = not yet) for a later attempt, and tell how far the job is."""
        pipeline = self._broker.pipeline()
        pipeline.set(keys.checkpoint(job_id), logits.astype("<f4").tobytes(), ex=keys.CHECKPOINT_TTL_SECONDS)
        pipeline.hset(keys.job(job_id), "scored", int(np.count_nonzero(~np.isnan(logits))))
        pipeline.execute()

    def checkpoint(self, job_id: str, rows: int) -> Logits:
        """The scores an earlier attempt left behind; NaN where there is none."""
        saved: Any = self._broker.get(keys.checkpoint(job_id))
        if saved is None or len(saved) != 4 * rows:
            return np.full(rows, np.nan, dtype=np.float32)
        return np.frombuffer(saved, dtype="<f4").astype(np.float32)

    def finish(self, job_id: str, worker: str, seconds_per_job: Mapping[Lane, float]) -> None:
        """Note that the answer is being given; the record lives as long as the answer does."""
        key = keys.job(job_id)
        pipeline = self._broker.pipeline()
        pipeline.hset(key, "answered", time.time())
        pipeline.expire(key, self._result_ttl_seconds)
        pipeline.delete(
            keys.checkpoint(job_id)
        )  # the payload goes with the ack: until then this attempt may be lost
        pipeline.hset(keys.PACE, worker, wire.encode(dict(seconds_per_job)))
        pipeline.execute()
