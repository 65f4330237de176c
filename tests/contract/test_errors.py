"""Errors cross the queue as themselves."""

import pickle

import pytest
from celery.backends.base import Backend

from rerankq.contract import errors
from rerankq.contract.broker import celery_app
from rerankq.contract.errors import BY_NAME, JobFailed, QueueFull, RerankError, from_wire, to_wire


@pytest.fixture(scope="module")
def backend() -> Backend:
    nowhere = "redis://127.0.0.1:1/0"
    app = celery_app("t", nowhere, nowhere, socket_timeout_seconds=1, result_ttl_seconds=60)
    return app.backend


@pytest.mark.parametrize("cls", BY_NAME.values(), ids=BY_NAME)
def test_every_error_survives_celerys_result_backend(cls: type[RerankError], backend: Backend) -> None:
    error = cls("what, where, how out", {"attempts": 3, "retry_after_seconds": 2.5})

    stored = backend.decode(backend.encode(backend.prepare_exception(error)))
    back = from_wire(stored["exc_type"], stored["exc_message"])

    assert type(back) is cls
    assert (back.message, back.details) == (error.message, error.details)


@pytest.mark.parametrize("cls", BY_NAME.values(), ids=BY_NAME)
def test_every_error_survives_the_pipe_between_child_and_parent(cls: type[RerankError]) -> None:
    back = pickle.loads(pickle.dumps(cls("message", {"a": 1})))

    assert (type(back), back.message, back.details) == (cls, "message", {"a": 1})


def test_an_error_in_a_pack_survives_as_plain_json() -> None:
    wire = to_wire(QueueFull("full", {"retry_after_seconds": 7.0}))

    back = from_wire(wire["type"], (wire["message"], wire["details"]))

    assert isinstance(back, QueueFull)
    assert back.retry_after_seconds == 7.0


def test_a_foreign_exception_becomes_job_failed_naming_its_type() -> None:
    back = from_wire("ZeroDivisionError", ("division by zero",))

    assert isinstance(back, JobFailed)
    assert "ZeroDivisionError" in back.message


def test_celerys_hard_limit_becomes_deadline_exceeded() -> None:
    assert isinstance(from_wire("TimeLimitExceeded", (5.0,)), errors.DeadlineExceeded)


def test_retryable_tells_try_again_from_never() -> None:
    retryable = {name for name, cls in BY_NAME.items() if cls.retryable}

    assert retryable == {"QueueFull", "NoWorkers", "ResultTimeout", "BrokerUnavailable"}


def test_the_tree_in_the_docstring_names_every_error() -> None:
    for name in BY_NAME:
        assert name in (errors.__doc__ or "")
