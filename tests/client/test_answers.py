"""Every end that Celery can record is read as a ranking or as one of our errors, and told as a state."""

import time

import pytest

from rerankq.answers import is_answer, read_answer, read_pack, read_ranking, read_status
from rerankq.contract import wire
from rerankq.contract.clock import RedisClock
from rerankq.contract.errors import Cancelled, DeadlineExceeded, InvalidRequest, JobFailed, RerankError


def meta(status: str, result: object = None) -> bytes:
    return wire.encode({"status": status, "result": result, "traceback": None, "task_id": "j"})


def failure(name: str, details: dict[str, object] | None = None) -> bytes:
    return meta("FAILURE", {"exc_type": name, "exc_message": ["why", details or {}], "exc_module": "m"})


def revoked(reason: str) -> bytes:
    told = {"exc_type": "TaskRevokedError", "exc_message": [reason], "exc_module": "celery.exceptions"}
    return meta("REVOKED", told)


ENDS = {
    "done": (meta("SUCCESS", {}), "done"),
    "cancelled": (failure("Cancelled"), "cancelled"),
    "out of time": (failure("DeadlineExceeded"), "expired"),
    "never started": (revoked("expired"), "expired"),
    "revoked": (revoked("revoked"), "cancelled"),
    "terminated": (revoked("terminated"), "cancelled"),
    "wrong request": (failure("InvalidRequest"), "failed"),
    "gave up": (failure("JobFailed", {"dead": True}), "dead"),
    "failed once": (failure("JobFailed"), "failed"),
}


@pytest.mark.parametrize(("record", "state"), ENDS.values(), ids=ENDS)
def test_each_end_is_told_as_a_state(record: bytes, state: str) -> None:
    assert read_status("j", record, {}, cancelled=False, clock=RedisClock()).state == state


@pytest.mark.parametrize(
    ("record", "error"),
    [
        (failure("Cancelled"), Cancelled),
        (failure("InvalidRequest"), InvalidRequest),
        (revoked("expired"), DeadlineExceeded),
        (revoked("revoked"), Cancelled),
        (failure("KeyError"), JobFailed),
    ],
)
def test_each_failure_is_raised_as_itself(record: bytes, error: type[RerankError]) -> None:
    with pytest.raises(error):
        read_answer("j", record)


def test_a_running_job_tells_how_far_it_is() -> None:
    record = {b"started": b"1.0", b"scored": b"32", b"total": b"100", b"lane": b"bulk", b"attempts": b"2"}

    status = read_status("j", None, record, cancelled=False, clock=RedisClock())

    assert (status.state, status.scored, status.total, status.lane, status.attempts) == (
        "running",
        32,
        100,
        "bulk",
        2,
    )


def test_an_answer_that_has_expired_is_unknown() -> None:
    record = {b"started": b"1.0", b"answered": str(time.time() - 3600).encode()}

    assert read_status("j", None, record, cancelled=False, clock=RedisClock()).state == "unknown"


def test_a_pack_gives_an_error_for_one_and_the_rest_their_rankings() -> None:
    ranking = {
        "id": "p.0",
        "model": {"name": "m", "revision": "r"},
        "results": [],
        "complete": True,
        "scored": 0,
        "total": 0,
        "usage": {},
        "timings": {},
        "worker": {"name": "w", "device": "cpu", "dtype": "fp32"},
    }
    error = {"type": "InvalidRequest", "message": "query: is missing", "details": {"field": "query"}}

    first, second = read_pack("p", meta("SUCCESS", {"answers": [{"ranking": ranking}, {"error": error}]}))

    assert not isinstance(first, RerankError)
    assert first.id == "p.0"
    assert isinstance(second, InvalidRequest)


STRANGE_METAS = [
    pytest.param(b"\xff no json", id="no JSON"),
    pytest.param(b"[1]", id="a list"),
    pytest.param(b"{}", id="nothing said"),
    pytest.param(wire.encode({"status": ["SUCCESS"]}), id="a list of states"),
]
UNREADABLE = [
    pytest.param(wire.encode({"status": "SUCCESS"}), id="no result"),
    pytest.param(meta("SUCCESS", 5), id="a number"),
    pytest.param(meta("SUCCESS", {"results": "none"}), id="no ranking"),
    pytest.param(meta("SUCCESS", {"answers": [3]}), id="no members"),
    pytest.param(meta("SUCCESS", {"answers": [{"error": 3}]}), id="no error"),
]
STRANGE_RECORD = {
    b"total": b"many", b"scored": b"\xff", b"submitted": b"nan", b"attempts": b"", b"answered": b"soon",
    b"lane": b"express", b"\xff": b"\xff",
}  # fmt: skip


@pytest.mark.parametrize("record", STRANGE_METAS)
def test_a_record_of_celery_that_nobody_can_read_is_no_answer(record: bytes) -> None:
    assert not is_answer(record)
    assert read_status("j", record, {}, cancelled=False, clock=RedisClock()).state == "unknown"


@pytest.mark.parametrize("record", UNREADABLE)
def test_an_answer_that_is_none_is_a_named_error(record: bytes) -> None:
    for read in (read_ranking, read_pack):
        with pytest.raises(JobFailed, match="cannot be read"):
            read("j", record)


@pytest.mark.parametrize("told", [None, 3, ["why"], {"exc_type": "JobFailed", "exc_message": "why"},
                                  {"exc_type": "JobFailed", "exc_message": [1, 2, 3]}], ids=str)  # fmt: skip
def test_a_failure_that_is_told_strangely_is_a_named_error(told: object) -> None:
    with pytest.raises(JobFailed):
        read_answer("j", meta("FAILURE", told))


def test_strange_fields_of_a_record_say_nothing() -> None:
    status = read_status("j", None, STRANGE_RECORD, cancelled=False, clock=RedisClock())

    assert (status.state, status.total, status.scored, status.attempts) == ("queued", 0, 0, 0)
    assert (status.submitted_at, status.lane) == (None, None)


def test_one_ranking_asked_of_a_pack_names_the_way_to_its_answers() -> None:
    pack = meta("SUCCESS", {"answers": [{"error": {"type": "JobFailed", "message": "why"}}]})

    with pytest.raises(InvalidRequest, match=r"job p is a pack of 1 requests; `Pack.answers\(\)` has one"):
        read_ranking("p", pack)
