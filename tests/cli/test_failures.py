"""What a failure looks like at the command line."""

import json

import pytest

from rerankq.cli.failures import exit_code, report
from rerankq.contract import errors
from rerankq.local.failure import Unavailable


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        pytest.param(errors.InvalidRequest, 2, id="InvalidRequest"),
        pytest.param(errors.PayloadTooLarge, 2, id="PayloadTooLarge"),
        pytest.param(errors.InvalidSettings, 2, id="InvalidSettings"),
        pytest.param(errors.QueueFull, 3, id="QueueFull"),
        pytest.param(errors.NoWorkers, 3, id="NoWorkers"),
        pytest.param(errors.BrokerUnavailable, 3, id="BrokerUnavailable"),
        pytest.param(Unavailable, 3, id="Unavailable"),
        pytest.param(errors.JobFailed, 1, id="JobFailed"),
        pytest.param(errors.DeadlineExceeded, 1, id="DeadlineExceeded"),
        pytest.param(errors.ResultTimeout, 1, id="ResultTimeout"),
        pytest.param(errors.JobUnknown, 1, id="JobUnknown"),
        pytest.param(errors.Cancelled, 1, id="Cancelled"),
    ],
)
def test_a_script_can_tell_the_kinds_of_failure_apart(kind: type[errors.RerankError], code: int) -> None:
    assert exit_code(kind("it did not work")) == code


def test_a_failure_is_one_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    code = report(errors.QueueFull("the lane is full", {"retry_after_seconds": 2.0}), as_json=False)

    assert code == 3
    assert capsys.readouterr() == ("", "rerankq: QueueFull: the lane is full\n")


def test_with_json_a_failure_is_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    report(errors.QueueFull("the lane is full", {"retry_after_seconds": 2.0}), as_json=True)

    assert json.loads(capsys.readouterr().err) == {
        "error": {
            "type": "QueueFull",
            "message": "the lane is full",
            "details": {"retry_after_seconds": 2.0},
        }
    }


def test_a_name_in_a_failure_neither_ends_its_line_nor_drives_the_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    report(errors.InvalidRequest("there is no file at a\nERROR \x1b[31mb"), as_json=False)

    assert capsys.readouterr().err == "rerankq: InvalidRequest: there is no file at a\\nERROR \\x1b[31mb\n"


def test_the_end_of_a_log_follows_in_lines_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    report(Unavailable("the worker ended; its last lines:\n  a\x07\n  b"), as_json=False)

    assert (
        capsys.readouterr().err == "rerankq: Unavailable: the worker ended; its last lines:\n  a\\x07\n  b\n"
    )
