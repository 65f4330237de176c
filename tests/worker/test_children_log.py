"""What a host's processes write to their pipes, as lines of one log."""

import json
import os
from pathlib import Path

import pytest

from rerankq.contract.log.lines import Lines, LogFormat
from rerankq.contract.log.outlet import Outlet
from rerankq.contract.log.process import LineHandler
from rerankq_worker.host.children_log import ChildrenLog


def passed_on(directory: Path, style: LogFormat, *pieces: bytes) -> list[bytes]:
    """The lines that come of what a process writes and then ends."""
    descriptor = os.open(directory / "log", os.O_WRONLY | os.O_CREAT)
    log = ChildrenLog(LineHandler(Lines(style, "launcher"), Outlet(descriptor, lambda _: b"")))
    pipe = log.pipe_for("engine cpu0")
    for piece in pieces:
        os.write(pipe, piece)
    os.close(pipe)
    log.finish()
    os.close(descriptor)
    return (directory / "log").read_bytes().splitlines(keepends=True)


@pytest.mark.parametrize("style", ["text", "json"])
def test_a_line_of_ours_goes_on_as_it_is_though_something_stood_before_it(
    tmp_path: Path, style: LogFormat
) -> None:
    """As where one thread writes it while a stack is written, piece by piece, for another."""
    ours = Lines(style, "engine cpu0").line("job done")

    before, told, after = passed_on(tmp_path, style, b'  File "x.py", line ', ours, b"7 in run\n")

    assert told == ours
    assert b"x.py" in before
    assert b"7 in run" in after


def test_a_line_of_another_format_is_a_record_of_this_one(tmp_path: Path) -> None:
    (told,) = passed_on(tmp_path, "json", Lines("text", "somebody").line("one"))

    assert json.loads(told)["message"].endswith("somebody: one")


def test_a_megabyte_in_one_line_is_lines(tmp_path: Path) -> None:
    for line in passed_on(tmp_path, "json", b"\xff" * 60_000, b"\xfe" * 60_000 + b"\n"):
        json.loads(line)
