"""A worker in a thread: takes packs off the bulk lane of a real Redis and answers them by the length of the texts.

Speaks Celery's wire by hand, so that files and resuming can be tested without a model and in milliseconds.
"""

import base64
import contextlib
import json
import math
import threading
import time
from collections import Counter
from typing import Any, Self

import redis

from rerankq.contract import keys, wire
from rerankq.contract.heartbeats import Heartbeats, WorkerStatus
from rerankq.contract.transport.envelope import PAYLOAD_HEADER
from tests.redis_server import RedisServer

MODEL = {"name": "by-length", "revision": "1"}
POISON = "poison"  # in a query: the whole pack fails, as when an engine dies of it
SLOW = "slow"  # in a query: out of time unless alone
REFUSED = "refused"  # in a query: the worker refuses this member


class AnsweringWorker:
    """`with AnsweringWorker(server) as worker:`"""

    def __init__(
        self,
        server: RedisServer,
        *,
        seconds_per_pack: float = 0.0,
        revision: str = "1",
        model: str = MODEL["name"],
        serves_unnamed: bool = True,
    ) -> None:
        self._redis: redis.Redis = server.client()
        self.seconds_per_pack = seconds_per_pack
        """May be changed at any time: slow enough to be broken off, then quick."""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._model = {"name": model, "revision": revision}
        names = [None] * serves_unnamed + [model, f"{model}@{revision}"]
        self._queues = [keys.queue_of("bulk", name) for name in names]
        self._beat_at = 0.0
        self.scored: Counter[str] = Counter()
        """How often each query was scored."""
        self.packs: list[int] = []
        """How many requests each pack had."""

    def __enter__(self) -> Self:
        self._beat()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()
        with contextlib.suppress(redis.RedisError):
            self._redis.delete(keys.WORKERS)
        self._redis.close()

    def _serve(self) -> None:
        while not self._stopping.is_set():
            try:
                if time.monotonic() > self._beat_at:
                    self._beat()
                taken: Any = self._next()
                if taken is None:
                    time.sleep(0.01)
                else:
                    envelope = json.loads(taken)
                    self._answer(envelope)
                    self._redis.lrem("held", 1, taken)
                    self._redis.delete(
                        envelope["headers"].get(PAYLOAD_HEADER, "")
                    )  # or it fills Redis, as with the ack
            except redis.RedisError:
                time.sleep(0.05)
                self._give_back()

    def _next(self) -> Any:
        moved = (self._redis.lmove(queue, "held", "RIGHT", "LEFT") for queue in self._queues)
        return next((taken for taken in moved if taken is not None), None)

    def _give_back(self) -> None:
        """As leases do: what was held when Redis went away is answered once it is back."""
        with contextlib.suppress(redis.RedisError):
            while self._redis.lmove("held", self._queues[0], "LEFT", "RIGHT"):
                pass

    def _beat(self) -> None:
        self._beat_at = time.monotonic() + 1
        worker = WorkerStatus(
            name=f"{self._model['name']}@test",
            state="ready",
            lanes=("bulk",),
            device="cpu",
            dtype="fp32",
            model=self._model["name"],
            revision=self._model["revision"],
            serves_unnamed=keys.queue_of("bulk") in self._queues,
        )
        Heartbeats(self._redis).tell(worker)

    def _answer(self, envelope: dict[str, Any]) -> None:
        job_id = envelope["headers"]["id"]
        if self._redis.exists(keys.result(job_id)):
            return  # as Celery leaves out a task that succeeded before
        requests = self._requests(envelope)
        time.sleep(self.seconds_per_pack)
        self.packs.append(len(requests))
        if any(POISON in request["query"] for request in requests):
            failed = {"exc_type": "JobFailed", "exc_message": ["the engine died", {"where": "engine"}]}
            self._store(job_id, "FAILURE", failed)
            return
        alone = len(requests) == 1
        answers = [
            self._member(f"{job_id}.{place}", request, alone) for place, request in enumerate(requests)
        ]
        self._store(job_id, "SUCCESS", {"answers": answers})

    def _requests(self, envelope: dict[str, Any]) -> list[dict[str, Any]]:
        body = base64.b64decode(envelope["body"])
        if envelope["headers"].get("compression"):
            body = wire.decompress(body)
        kwargs = wire.decode(body)[1]
        if "payload" in kwargs:
            packed: Any = self._redis.get(kwargs["payload"])
            kwargs = wire.decode(wire.decompress(packed))
        return kwargs["requests"]

    def _member(self, name: str, request: dict[str, Any], alone: bool) -> dict[str, Any]:
        query = request["query"]
        if REFUSED in query:
            return {"error": {"type": "InvalidRequest", "message": "query: is refused", "details": {}}}
        if SLOW in query and not alone:
            return {"error": {"type": "DeadlineExceeded", "message": "0 of 1 documents", "details": {}}}
        self.scored[query] += 1
        return {"ranking": ranking(name, request, self._model)}

    def _store(self, job_id: str, status: str, result: Any) -> None:
        meta = wire.encode({"status": status, "result": result, "traceback": None, "task_id": job_id})
        pipeline = self._redis.pipeline()
        pipeline.hset(keys.job(job_id), "answered", time.time())
        pipeline.set(keys.result(job_id), meta, ex=3600)
        pipeline.publish(keys.result(job_id), meta)
        pipeline.execute()


def ranking(name: str, request: dict[str, Any], model: dict[str, str] = MODEL) -> dict[str, Any]:
    """The longer a document, the more relevant; read in windows it has two, of which the first is the better."""
    given = [d if isinstance(d, dict) else {"text": d} for d in request["documents"]]
    order = sorted(range(len(given)), key=lambda index: -len(given[index]["text"]))
    window = {"index": 0, "total": 2, "start": 0, "end": 3}
    told = {"window": window} if request.get("long_documents") == "windows" else {}
    least = request.get("score_threshold", 0.0)
    results = [{**_result(index, given[index]), **told} for index in order]
    results = [each for each in results if each["relevance_score"] >= least][: request.get("top_n")]
    return {
        "id": name,
        "model": model,
        "results": results,
        "complete": True,
        "scored": len(given),
        "total": len(given),
        "usage": {"pairs": len(given), "tokens": 10 * len(given)},
        "timings": {},
        "worker": {"name": "w@test", "device": "cpu", "dtype": "fp32"},
    }


def _result(index: int, document: dict[str, str]) -> dict[str, Any]:
    logit = len(document["text"]) / 10
    score = 1 / (1 + math.exp(-logit))
    return {"index": index, "id": document.get("id"), "relevance_score": score, "logit": logit}
