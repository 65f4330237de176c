"""What a Celery child writes into Redis of a job: that it runs, its answer, its end; in how few steps."""

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import redis
from celery import Celery
from celery.app.task import Context
from redis import Redis

from rerankq.contract import keys
from rerankq.contract.address import read_address
from rerankq.contract.broker import celery_app
from rerankq.contract.calling_off import call_off
from rerankq.contract.messages import Limits
from rerankq.contract.totals import OUTCOMES, Outcome, Totals, totals_in
from rerankq_worker.job.runner import Attempt, JobRunner
from rerankq_worker.job.store import JobStore, Ranked
from rerankq_worker.link.client import EngineAway, Scored
from rerankq_worker.model.reading import Reading, Row
from rerankq_worker.queue.answers import AnswerNotStored, Answers, _StoringOnce
from rerankq_worker.scoring import EngineInfo, TokenIds
from tests.redis_server import RedisServer

pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")  # by Celery
JOB, META = "job-1", keys.result("job-1")
RANKING = {"results": [{"index": 0}]}


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
def broker(server: RedisServer) -> "Iterator[Redis]":
    with server.client() as broker:
        broker.flushall()
        yield broker


@pytest.fixture
def store(broker: "Redis") -> JobStore:
    store = JobStore(broker, max_payload_bytes=1_000_000, result_ttl_seconds=60)
    store.is_told_of_answers = True
    return store


@pytest.fixture
def app(server: RedisServer) -> Iterator[Celery]:
    app = celery_app("worker", server.url, server.url, socket_timeout_seconds=5, result_ttl_seconds=60)
    yield app
    app.close()


@pytest.fixture
def once(app: Celery, store: JobStore) -> Any:
    return _StoringOnce(store.answer, app=app, url=app.backend.url)


def start(store: JobStore, attempt: int = 1) -> None:
    store.start(JOB, "bulk", "w", attempt, store.look_up(JOB), documents=1)


def record(broker: "Redis") -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in broker.hgetall(keys.job(JOB)).items()}


def calls(broker: "Redis") -> dict[str, int]:
    told = broker.info("commandstats")
    return {name.removeprefix("cmdstat_"): told[name]["calls"] for name in told}


def test_a_short_job_costs_its_child_two_steps(broker: "Redis", store: JobStore, once: Any) -> None:
    for _ in range(2):  # Redis has to learn the scripts
        broker.delete(META, keys.job(JOB))
        broker.config_resetstat()
        start(store)
        once.mark_as_done(JOB, RANKING)
        store.finish(JOB)

    told = calls(broker)

    assert told["evalsha"] == 2
    assert not {"multi", "eval"} & set(told)
    assert {"started", "worker", "attempts", "lane", "total", "answered"} <= set(record(broker))


def test_an_answer_is_announced_and_ends_the_record_and_what_was_kept_of_the_job(
    broker: "Redis", store: JobStore, once: Any
) -> None:
    broker.mset({keys.cancel(JOB): 1, keys.checkpoint(JOB): b"scores"})
    with broker.pubsub(ignore_subscribe_messages=True) as heard:
        heard.subscribe(META)
        heard.get_message(timeout=1)

        once.mark_as_done(JOB, RANKING)

        message = heard.get_message(timeout=1)
    assert message is not None
    assert message["data"] == broker.get(META)
    assert not broker.exists(keys.cancel(JOB), keys.checkpoint(JOB))
    assert 0 < broker.ttl(META) <= 60
    assert 0 < broker.ttl(keys.job(JOB)) <= 60


@pytest.mark.parametrize("extended", [False, True], ids=["plain", "extended"])
def test_what_is_stored_is_what_celery_stores(
    broker: "Redis", app: Celery, once: Any, extended: bool
) -> None:
    app.conf.result_extended = extended
    request = Context({"id": JOB, "group": "g", "parent_id": "p", "task": "t", "args": (), "kwargs": {}})
    stored: list[dict[str, Any]] = []

    for backend in (app.backend, once):
        backend.mark_as_done(JOB, RANKING, request=request)
        stored.append(backend.decode(broker.get(META)) | {"date_done": "now"})
        broker.delete(META)

    assert list(stored[0].items()) == list(stored[1].items())


def test_an_answer_whose_caller_ignores_it_is_not_stored(broker: "Redis", once: Any) -> None:
    once.mark_as_done(JOB, RANKING, request=Context({"id": JOB, "ignore_result": True}))

    assert not broker.exists(META)


def test_a_ranking_takes_the_place_of_an_error_and_of_no_ranking(broker: "Redis", once: Any) -> None:
    once.mark_as_failure(JOB, ValueError("lost"))
    once.mark_as_done(JOB, RANKING)
    once.mark_as_done(JOB, {"results": []})

    assert once.decode(broker.get(META))["result"] == RANKING


def test_a_part_of_a_chord_is_stored_in_celerys_own_way(app: Celery) -> None:
    def never(*_: Any) -> bool:
        raise AssertionError

    once = _StoringOnce(never, app=app, url=app.backend.url)

    once.store_result(
        JOB, RANKING, "SUCCESS", request=Context({"id": JOB, "chord": {"task": "t"}, "group": "g"})
    )

    assert once.get_result(JOB) == RANKING


def test_a_redis_that_refuses_the_step_is_asked_in_celerys_own_way(app: Celery) -> None:
    def refused(*_: Any) -> bool:
        raise redis.ResponseError("NOPERM this user has no permissions to run the 'evalsha' command")

    once = _StoringOnce(refused, app=app, url=app.backend.url)

    once.mark_as_done(JOB, RANKING)

    assert once.get_result(JOB) == RANKING


@pytest.fixture
def _no_child_of_celery() -> Iterator[None]:
    yield
    Answers.child = None


@pytest.mark.usefixtures("_no_child_of_celery")
def test_a_full_redis_takes_neither_the_answer_nor_the_end(
    broker: "Redis", app: Celery, store: JobStore, server: RedisServer
) -> None:
    start(store)
    Answers.in_child(app, read_address(server.url).for_celery(), store.answer)
    broker.config_set("maxmemory", "1")
    try:
        with pytest.raises(AnswerNotStored) as caught:
            Answers(app).mark_as_done(JOB, RANKING)
    finally:
        broker.config_set("maxmemory", "0")

    assert caught.value.is_passing
    assert not broker.exists(META, keys.job(JOB))


@pytest.mark.usefixtures("_no_child_of_celery")
@pytest.mark.parametrize(
    ("results", "is_one_step"),
    [
        pytest.param("redis://127.0.0.1:1/0", True, id="the same Redis"),
        pytest.param("redis://127.0.0.1:1/1", False, id="another database"),
        pytest.param("redis://127.0.0.1:2/0", False, id="another Redis"),
        pytest.param("rediss://127.0.0.1:1/0?ssl_cert_reqs=none", False, id="over TLS"),
        pytest.param("sentinel://127.0.0.1:1?master_name=m", False, id="behind a sentinel"),
    ],
)
def test_only_answers_beside_the_records_end_jobs_in_their_own_step(
    store: JobStore, results: str, is_one_step: bool
) -> None:
    broker = "redis://127.0.0.1:1/0"
    app = celery_app("worker", broker, results, socket_timeout_seconds=1)

    assert Answers.in_child(app, read_address(broker).for_celery(), store.answer) == is_one_step
    app.close()


def test_that_a_longer_job_runs_is_recorded_with_the_first_look_at_it(
    broker: "Redis", store: JobStore
) -> None:
    start(store)
    assert not broker.exists(keys.job(JOB))

    assert store.why_stop(JOB, attempt=1) is None

    assert record(broker)["worker"] == "w"
    assert broker.ttl(keys.job(JOB)) > 0


def test_that_a_job_runs_is_recorded_at_once_where_its_answer_goes_elsewhere(
    broker: "Redis", store: JobStore
) -> None:
    store.is_told_of_answers = False

    start(store)

    assert record(broker)["worker"] == "w"


def test_that_a_job_is_tried_again_is_recorded_at_once(broker: "Redis", store: JobStore) -> None:
    broker.hset(keys.job(JOB), mapping={"attempts": 1, "answered": 5})

    start(store, attempt=2)

    assert record(broker)["attempts"] == "2"
    assert "answered" not in record(broker)


def test_an_attempt_overtaken_before_its_first_look_leaves_the_record_to_the_later_one(
    broker: "Redis", store: JobStore
) -> None:
    start(store)
    broker.hset(keys.job(JOB), mapping={"attempts": 2, "worker": "later"})

    assert store.why_stop(JOB, attempt=1) == "superseded"
    assert record(broker)["worker"] == "later"


def test_a_job_called_off_before_its_first_look_is_not_recorded_as_running(
    broker: "Redis", store: JobStore
) -> None:
    start(store)
    call_off(broker, JOB)

    assert store.why_stop(JOB, attempt=1) == "cancelled"
    assert not broker.exists(keys.job(JOB))


def test_the_end_of_one_job_is_not_taken_for_the_next_ones(
    broker: "Redis", store: JobStore, once: Any
) -> None:
    start(store)
    once.mark_as_done(JOB, RANKING)
    broker.delete(keys.job(JOB))  # somebody submits it again

    start(store)
    store.finish(JOB, "failed")

    assert "answered" in record(broker)


READ = {"query": "q", "documents": ["a", "b"]}


class OneByOne:
    """An engine that scores a row and is away then."""

    def __init__(self) -> None:
        self.asked = 0

    def scores(self, rows: list[TokenIds], **_: object) -> Iterator[Scored]:
        self.asked = len(rows)
        yield Scored(np.zeros(1, dtype=np.int64), np.ones(1, dtype=np.float32))
        raise EngineAway


class Letters:
    def read(self, reading: Reading) -> list[Row]:
        texts = enumerate(reading.documents)
        return [
            Row(np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int32), False, n) for n, text in texts
        ]


def rows_asked_for(store: JobStore, dtype: str) -> int:
    engine: Any = OneByOne()
    served = EngineInfo("m", "1", "cpu", dtype, 512, 32, 1024)
    runner = JobRunner(store, Letters(), engine, served, Limits(9, 9, 99))
    attempt = Attempt(JOB, "bulk", 1, "w", 0.0, store.look_up(JOB), 60.0, time.monotonic() + 60)
    with pytest.raises(EngineAway):
        runner.run(attempt, [READ])
    return engine.asked


@pytest.mark.parametrize(("dtype", "asked"), [("fp32", 1), ("int8", 2)])
def test_an_attempt_goes_on_from_scores_of_its_own_precision(store: JobStore, dtype: str, asked: int) -> None:
    assert rows_asked_for(store, "fp32") == 2

    assert rows_asked_for(store, dtype) == asked


def test_an_end_is_counted_in_the_step_that_stores_the_answer(
    broker: "Redis", store: JobStore, once: Any
) -> None:
    start(store)
    store.note_ranked(JOB, Ranked("bulk", 5, store.clock.now() - 2, 0.5))

    once.mark_as_done(JOB, RANKING)

    totals = totals_of(broker)
    assert totals.jobs["bulk", "done"] == 1
    assert totals.pairs["bulk"] == 5
    assert (totals.waits["bulk"].quantile(1), totals.times["bulk"].quantile(1)) == (0.5, 2.5)


def test_an_end_is_counted_with_its_record_where_answers_lie_elsewhere(
    broker: "Redis", store: JobStore
) -> None:
    start(store)
    store.note_ranked(JOB, Ranked("bulk", 5, store.clock.now() - 2, 0.5))

    store.finish(JOB, "done", "bulk")

    totals = totals_of(broker)
    assert (totals.jobs["bulk", "done"], totals.pairs["bulk"], totals.times["bulk"].count) == (1, 5, 1)


def test_an_attempt_that_was_answered_already_is_counted_no_second_time(
    broker: "Redis", store: JobStore, once: Any
) -> None:
    for attempt in (1, 2):  # of two workers, say, or the second of one whose ack was lost
        start(store, attempt)
        store.note_ranked(JOB, Ranked("bulk", 5, None, 0.0))
        once.mark_as_done(JOB, RANKING)
        store.finish(JOB, "done", "bulk")

    assert totals_of(broker).jobs["bulk", "done"] == 1


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_an_end_that_several_tell_is_counted_once_and_as_the_first_tells_it(
    broker: "Redis", store: JobStore, outcome: Outcome
) -> None:
    start(store)

    store.finish(JOB, outcome, "bulk")
    for other in OUTCOMES:
        JobStore(broker, 1, 60).finish(JOB, other, "interactive")

    assert {end: count for end, count in totals_of(broker).jobs.items() if count} == {("bulk", outcome): 1}


def test_a_job_that_a_worker_of_before_answered_is_counted_by_whoever_takes_it_next(
    broker: "Redis", store: JobStore, once: Any
) -> None:
    broker.hset(keys.job(JOB), mapping={"answered": 1.0, "lane": "bulk"})
    once.mark_as_done(JOB, RANKING)
    broker.delete(keys.TOTALS)
    broker.hdel(keys.job(JOB), "counted")

    store.look_up(JOB)
    once.mark_as_done(JOB, RANKING)
    store.finish(JOB, "done", "bulk")

    assert totals_of(broker).jobs["bulk", "done"] == 1


def test_a_lane_that_nobody_tells_is_that_of_the_record(broker: "Redis", store: JobStore) -> None:
    for job, lane in (("a", "interactive"), ("b", "another's")):
        broker.hset(keys.job(job), "lane", lane)
        store.finish(job, "failed")
    store.finish("c", "failed")

    totals = totals_of(broker)
    assert (totals.jobs["interactive", "failed"], totals.jobs["bulk", "failed"]) == (1, 2)


def test_an_end_is_counted_on_a_full_redis(broker: "Redis", store: JobStore) -> None:
    start(store)
    broker.config_set("maxmemory", 1)
    try:
        store.finish(JOB, "failed", "bulk")
    finally:
        broker.config_set("maxmemory", 0)

    assert totals_of(broker).jobs["bulk", "failed"] == 1
    assert "answered" in record(broker)


@pytest.mark.parametrize("missing", ["hincrby", "hsetnx"])
def test_who_may_not_count_stores_answers_all_the_same(
    server: RedisServer, broker: "Redis", missing: str
) -> None:
    broker.execute_command("ACL", "SETUSER", "few", "on", "nopass", "~*", "&*", "+@all", f"-{missing}")
    with server.client(username="few", password="any") as few:
        store = JobStore(few, 1, 60)
        store.begin_counting()
        store.note_ranked(JOB, Ranked("bulk", 5, None, 0.0))

        assert store.answer(META, b"{}", 60, JOB)

    assert broker.exists(META)
    assert "answered" in record(broker)


def test_counting_keeps_the_hash_as_a_table(broker: "Redis", store: JobStore) -> None:
    store.begin_counting()

    assert broker.object("encoding", keys.TOTALS) == b"hashtable"


def totals_of(broker: "Redis") -> Totals:
    return totals_in(broker.hgetall(keys.TOTALS))
