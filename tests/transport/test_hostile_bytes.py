"""Anything may lie on a list: it is set aside with a named reason, and the worker goes on."""

import base64
import bz2
import json
import pickle
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery
from hypothesis import given, settings
from hypothesis import strategies as st

from rerankq.contract.errors import JobFailed
from rerankq.contract.transport.dead_letters import DeadLetters, NotReplayable
from rerankq.contract.transport.envelope import LARGEST_BODY_BYTES, Undecodable, open_envelope
from rerankq_worker.queue.headers import wrong_header
from tests.redis_server import RedisServer
from tests.transport.worker_process import WorkerProcess

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
ENVELOPE_LIKE = st.fixed_dictionaries(
    {},
    optional={
        "body": JSON,
        "headers": JSON,
        "content-type": JSON,
        "content-encoding": JSON,
        "properties": JSON
        | st.fixed_dictionaries(
            {}, optional={"body_encoding": JSON, "delivery_info": JSON, "priority": JSON}
        ),
    },
)


def base64_text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def envelope(job_id: object = "job", *, body: object = b"[[1], {}, {}]", **changes: Any) -> bytes:
    """A message as Celery writes it, with `changes` to its headers and envelope."""
    headers = {"id": job_id, "task": "note", "lang": "py", **changes.pop("headers", {})}
    message = {
        "body": base64_text(body) if isinstance(body, bytes) else body,
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {name: value for name, value in headers.items() if value != "absent"},
        "properties": {"body_encoding": "base64", "delivery_info": {}, "priority": 0},
        **changes,
    }
    return json.dumps(message).encode()


@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_random_bytes_are_undecodable_or_an_envelope(raw: bytes):
    try:
        opened = open_envelope(raw)
    except Undecodable:
        return
    assert isinstance(opened["headers"], dict)


@given(ENVELOPE_LIKE.map(lambda value: json.dumps(value).encode()))
@settings(max_examples=300)
def test_what_passes_for_an_envelope_has_every_part_kombu_touches(raw: bytes):
    try:
        opened = open_envelope(raw)
    except Undecodable:
        return
    assert isinstance(opened["body"], str)
    assert isinstance(opened["headers"], dict)
    assert isinstance(opened["properties"]["delivery_info"], dict)


@given(st.dictionaries(st.sampled_from(["id", "task", "timelimit", "eta", "stamps", "root_id"]), JSON))
def test_a_wrong_header_is_named_and_never_raises(headers: dict[str, Any]):
    assert wrong_header(headers) is None or wrong_header(headers) in {*headers, "id", "task"}


UNDECODABLE = {
    "random bytes": b"\x00\xff\xfe random",
    "no json": b"{not json",
    "a list": b"[]",
    "deep nesting": b"[" * 100_000,
    "a huge number": b'{"headers": {}, "body": ' + b"9" * 10_000 + b"}",
    "a decimal that is none": b'{"headers": {}, "body": {"__type__": "decimal", "__value__": "x"}}',
    "headers that are a list": json.dumps({"headers": [1], "body": "", "properties": {}}).encode(),
}

# Their bodies or envelopes cannot be read, and their ids can.
UNREADABLE = {
    "no-base64": envelope("no-base64", body="a"),
    "body-is-no-text": envelope("body-is-no-text", body=5),
    "no-body": envelope("no-body", body=None),
    "body-encoding": envelope("body-encoding", properties={"body_encoding": "rot13"}),
    "properties": envelope("properties", properties=[1]),
    "content-type": envelope("content-type", **{"content-type": 7}),
    "bzip2": envelope("bzip2", body=bz2.compress(b"[]"), headers={"compression": "application/x-bz2"}),
    "brotli": envelope("brotli", headers={"compression": "application/x-brotli"}),
    "compression": envelope("compression", headers={"compression": ["zstd"]}),
    "zstd": envelope("zstd", body=b"\x28\xb5\x2f\xfdxx", headers={"compression": "application/zstd"}),
    "cut-gzip": envelope(
        "cut-gzip", body=zlib.compress(b"[[], {}, {}]")[:-2], headers={"compression": "application/x-gzip"}
    ),
}


def gzip_bomb() -> bytes:
    """One more; not made at collection, which every process does."""
    body = zlib.compress(b"0" * (LARGEST_BODY_BYTES + 2))
    return envelope("gzip-bomb", body=body, headers={"compression": "application/x-gzip"})


REFUSED = {
    "kwargs-are-a-number": envelope("kwargs-are-a-number", body=b"[[], 5, {}]"),
    "args-are-a-number": envelope("args-are-a-number", body=b"[5, {}, {}]"),
    "named-by-its-properties": envelope(
        "absent",
        properties={"body_encoding": "base64", "correlation_id": "named-by-its-properties"},
    ),
    "pickle": envelope(
        "pickle",
        body=pickle.dumps(((1,), {}, {})),
        **{"content-type": "application/x-python-serialize", "content-encoding": "binary"},
    ),
    "yaml": envelope(
        "yaml", body=b"- !!python/object/apply:os.system [x]", **{"content-type": "application/x-yaml"}
    ),
    "json-that-is-none": envelope("json-that-is-none", body=b"{"),
    "body-of-one": envelope("body-of-one", body=b"[1]"),
    "body-is-a-number": envelope("body-is-a-number", body=b"5"),
    "not-utf-8": envelope("not-utf-8", body=b"\xff\xfe"),
    "unknown-type": envelope("unknown-type", **{"content-type": "text/klingon"}),
    "unknown-task": envelope("unknown-task", headers={"task": "os.system"}),
    **{
        f"attached-{name}": envelope(
            f"attached-{name}", headers={"task": "os.system", "group": "g"}, body=b"[[], {}, %s]" % embed
        )
        for name, embed in {
            "numbers": b'{"errbacks": 5, "chord": 5, "chain": 5}',
            "lists-of-numbers": b'{"errbacks": [5], "chain": [5]}',
            "task-is-a-number": b'{"errbacks": [{"task": 5, "options": 5}]}',
            "chord-is-empty": b'{"chord": {}, "chain": [{}], "errbacks": [{}]}',
            "chain-without-options": b'{"chain": [{"options": 5}]}',
            "a-chord-of-nobody": b'{"chord": {"task": "shop.gather", "options": {"queue": []}}}',
        }.items()
    },
    "task-is-a-list": envelope("task-is-a-list", headers={"task": []}),
    "limits-are-text": envelope("limits-are-text", headers={"timelimit": "soon"}),
    "limits-are-negative": envelope("limits-are-negative", headers={"timelimit": [-1, -1]}),
    "eta-is-a-table": envelope("eta-is-a-table", headers={"eta": {}}),
    "expires-is-no-date": envelope("expires-is-no-date", headers={"expires": "tomorrow"}),
    "stamps-are-numbers": envelope("stamps-are-numbers", headers={"stamped_headers": [[]]}),
}

WITHOUT_AN_ID = {
    "no id": envelope("absent"),
    "an id that is a table": envelope({}),
    "an id of a megabyte": envelope("x" * 1_000_000),
    "no task and no fields": envelope("absent", headers={"task": "absent"}, body=b"{}"),
    "no headers at all": json.dumps({"body": "", "properties": {}}).encode(),
}


def test_hostile_messages_are_set_aside_and_the_job_behind_them_is_answered(
    server: RedisServer, app: Celery, wait_until: Callable[..., None]
):
    unreadable = UNREADABLE | {"gzip-bomb": gzip_bomb()}
    answered = unreadable | REFUSED
    hostile = [*UNDECODABLE.values(), *answered.values(), *WITHOUT_AN_ID.values()]
    with server.client() as client, WorkerProcess(server) as worker:
        for raw in hostile:
            client.lpush("interactive", raw)
        assert app.send_task("note", (7,)).get(timeout=60) == 7

        wait_until(lambda: DeadLetters(client).count() == len(hostile))
        wait_until(lambda: client.hlen("rerankq:held") == 0)  # the last ack follows its answer
        assert client.llen("interactive") == client.zcard("rerankq:leases") == 0
        assert worker.log.count("Connected to") == 1, "the worker reconnected"
        assert not [letter for letter in DeadLetters(client).list() if len(letter.id) > 200]
        for job_id in answered:
            with pytest.raises(JobFailed, match="the message is not usable"):
                app.AsyncResult(job_id).get(timeout=1)
        assert {DeadLetters(client).show(job_id).task for job_id in unreadable} == {"note"}  # pyright: ignore
        assert DeadLetters(client).untold() == []


def test_what_a_client_sets_aside_is_answered_by_the_next_worker(server: RedisServer, app: Celery):
    with server.client() as client, app.connection_for_read() as connection:
        client.lpush("interactive", UNREADABLE["bzip2"])
        assert connection.default_channel.basic_get("interactive") is None

        with WorkerProcess(server), pytest.raises(JobFailed, match="the message is not usable"):
            app.AsyncResult("bzip2").get(timeout=60)


def test_whoever_tells_of_it_later_calls_the_errbacks_of_what_was_set_aside(
    server: RedisServer, app: Celery, wait_until: Callable[..., None]
):
    errback = app.signature("shop.note", queue="shop")
    body = json.dumps([[], {}, {"errbacks": [errback]}]).encode()
    with server.client() as client, app.connection_for_read() as connection:
        client.lpush("interactive", envelope("tried", headers={"x-deliveries": 4}, body=body))
        assert connection.default_channel.basic_get("interactive") is None
        assert client.llen("shop") == 0

        with WorkerProcess(server):
            wait_until(lambda: client.llen("shop") == 1)
            wait_until(lambda: DeadLetters(client).untold() == [])


def test_a_message_is_not_delivered_more_often_than_jobs_are_tried(server: RedisServer, app: Celery):
    with server.client() as client, app.connection_for_read() as connection:
        client.lpush("interactive", envelope("tried", headers={"x-deliveries": 4}))

        assert connection.default_channel.basic_get("interactive") is None
        ((job_id, error),) = DeadLetters(client).untold()
        assert (job_id, error.details["attempts"]) == ("tried", 3)


def test_an_unreadable_dead_letter_cannot_be_retried_but_shown_and_dropped(server: RedisServer, app: Celery):
    with server.client() as client, app.connection_for_read() as connection:
        client.lpush("interactive", b"\xff\xfe")
        assert connection.default_channel.basic_get("interactive") is None
        letters = DeadLetters(client)
        (letter,) = letters.list()

        assert "expected a JSON object, got 2 bytes that are none" in letter.reason
        assert letters.message(letter.id) == b"\xff\xfe"
        with pytest.raises(NotReplayable, match="cannot be sent again"):
            letters.retry(letter.id)
        assert letters.drop(letter.id)
        assert not client.keys("rerankq:dead*")


def test_no_listing_shows_what_the_user_wrote(server: RedisServer, app: Celery):
    with server.client() as client, app.connection_for_read() as connection:
        app.send_task("note", ("my secret",), headers={"x-deliveries": 11})
        assert connection.default_channel.basic_get("interactive") is None

        (letter,) = DeadLetters(client).list()
        assert "secret" not in repr(letter)
        assert b"secret" in base64.b64decode(
            json.loads(DeadLetters(client).message(letter.id) or b"{}")["body"]
        )
