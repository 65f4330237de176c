"""The log of a process: one line a record, whatever is in it, and nobody waits for whoever reads it."""

import contextlib
import json
import logging
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rerankq.contract.log.lines import LONGEST_LINE_BYTES, LineFormatter, Lines, LogFormat
from rerankq.contract.log.outlet import MOST_WAITING_LINES, Outlet

STYLES: tuple[LogFormat, ...] = ("text", "json")


@pytest.fixture(params=STYLES)
def lines(request: pytest.FixtureRequest) -> Lines:
    return Lines(request.param, "worker cpu0-bulk")


def test_a_line_of_json_is_an_object_with_its_fields() -> None:
    record = logging.LogRecord("rerankq_worker.job", logging.WARNING, "", 0, "job %s", ("lost",), None)
    record.created, record.fields = 1800000000.25, {"job": "a", "docs": 3, "trace_id": None, "level": "mine"}

    told = json.loads(LineFormatter(Lines("json", "worker cpu0-bulk")).format(record))

    assert told == {
        "time": "2027-01-15T08:00:00.250Z", "level": "WARNING", "logger": "rerankq_worker.job",
        "process": "worker cpu0-bulk", "message": "job lost", "job": "a", "docs": 3, "level_": "mine",
    }  # fmt: skip


def test_a_line_of_text_has_the_same() -> None:
    line = Lines("text", "engine gpu0").line(
        "job done", fields={"job": "a b", "wait_s": 0.25, "none": None}, at=1800000000.25
    )

    assert line == b'2027-01-15T08:00:00.250Z INFO engine gpu0: job done job="a b" wait_s=0.25\n'


STRANGE = {
    "several lines": "one\ntwo\r\nthree\u2028four",
    "control characters": "\x1b[31mred\x00 \x7f\x85",
    "a surrogate": "\ud800",
    "nothing": "",
    "long": "x" * 100_000,
    "long and escaped": "\x00" * 100_000,
    "long and wide": "中" * 100_000,
    "many beginnings of URLs": "@ " + "://a:" * 200_000,
}


@pytest.mark.parametrize("text", STRANGE.values(), ids=STRANGE)
@pytest.mark.parametrize("part", ["message", "field", "exc"])
def test_whatever_a_record_holds_is_one_line_that_a_pipe_takes_in_one_piece(
    lines: Lines, part: str, text: str
) -> None:
    line = lines.line(
        text if part == "message" else "told",
        fields={"field": text if part == "field" else "x", "n": 2**70},
        exc=text if part == "exc" else None,
    )

    assert line.endswith(b"\n")
    assert len(line) <= LONGEST_LINE_BYTES
    assert len(line.decode().splitlines()) == 1
    assert lines.begins_in(line) == 0
    assert "told" in line.decode() or part == "message"


def test_the_end_of_a_long_traceback_is_kept(lines: Lines) -> None:
    assert b"ValueError: the last" in lines.line("failed", exc="frame\n" * 5000 + "ValueError: the last")


SECRETS = {
    "password": "redis://worker:s3cret@host/0",
    "password alone": "redis://:s3cret@host",
    "with an at": "redis://worker:a@s3cret@host/0",
    "token": "https://s3cret@hub.example/model",
}


@pytest.mark.parametrize("url", SECRETS.values(), ids=SECRETS)
def test_no_password_of_a_url_is_in_a_line(lines: Lines, url: str) -> None:
    line = lines.line(f"connected to {url}, and mail to a@b", exc=f"refused: {url}")

    assert b"s3cret" not in line
    assert b"host" in line or b"hub.example" in line


@pytest.mark.parametrize("before", range(LONGEST_LINE_BYTES - 30, LONGEST_LINE_BYTES, 3))
def test_none_is_there_where_a_long_text_is_cut(lines: Lines, before: int) -> None:
    told = lines.line(
        "x" * before + "redis://worker:s3cret-and-long@host " + "x" * 9000,
        exc="x" * 9000 + " redis://worker:long-and-s3cret@host" + "x" * before,
    )

    assert b"s3c" not in told
    assert b"ret" not in told


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        with contextlib.suppress(OSError):
            os.close(end)


def told_of_dropped(count: int) -> bytes:
    return f"{count} missing\n".encode()


def everything(descriptor: int, ending: bytes) -> list[bytes]:
    found = b""
    while not found.endswith(ending):
        found += os.read(descriptor, 65_536)
    return found.splitlines()


@pytest.mark.parametrize("is_blocking", [True, False], ids=["anybody's pipe", "a pipe of ours"])
def test_lines_that_nobody_reads_are_dropped_counted_and_told(
    pipe: tuple[int, int], is_blocking: bool
) -> None:
    reader, writer = pipe
    os.set_blocking(writer, is_blocking)
    outlet = Outlet(writer, told_of_dropped)
    written = 3 * MOST_WAITING_LINES

    for number in range(written):  # far more than the pipe holds, and would wait for ever
        outlet.write(f"{number} {'x' * 100}\n".encode())
    os.set_blocking(reader, False)
    before = b""
    for _ in range(1000):
        try:
            before += os.read(reader, 65_536)
        except BlockingIOError:
            outlet.flush()
            if not is_blocking or outlet.is_idle:
                break
    os.set_blocking(reader, True)
    outlet.write(b"at last\n")
    *after, last = everything(reader, b"at last\n")

    kept = [*before.splitlines(), *after]
    missing = [int(line.split()[0]) for line in kept if line.endswith(b" missing")]
    assert last == b"at last"
    assert len(kept) - len(missing) + sum(missing) == written
    assert sum(missing) > 0


@pytest.mark.parametrize("is_blocking", [True, False])
def test_a_reader_that_has_gone_stops_nobody(pipe: tuple[int, int], is_blocking: bool) -> None:
    reader, writer = pipe
    os.set_blocking(writer, is_blocking)
    os.close(reader)
    outlet = Outlet(writer, told_of_dropped)

    for _ in range(3):
        outlet.write(b"a line\n")
    outlet.flush()


@pytest.mark.parametrize("flags", [0, os.O_APPEND], ids=["from its beginning", "appended to"])
def test_a_file_on_a_full_disk_holds_whole_lines(tmp_path: Path, flags: int) -> None:
    """Like a disk, a limit takes of a line what there is room for."""
    descriptor = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT | flags)
    outlet = Outlet(descriptor, told_of_dropped)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (25, hard))
    try:
        for number in range(4):
            outlet.write(f"line {number}\n".encode())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    outlet.write(b"room again\n")
    os.close(descriptor)

    assert (tmp_path / "log").read_bytes() == b"line 0\nline 1\nline 2\n1 missing\nroom again\n"


def test_a_forked_process_goes_on_writing(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    outlet = Outlet(writer, told_of_dropped)
    outlet.write(b"parent\n")
    outlet.flush()

    if (child := os.fork()) == 0:
        outlet.write(b"child\n")
        outlet.flush()
        os._exit(0)
    os.waitpid(child, 0)

    assert everything(reader, b"child\n") == [b"parent", b"child"]


SAYS = """
import logging, sys, threading, warnings
from rerankq.contract.log.process import speak_as
speak_as("test", "json", "INFO")
print("printed")
print("printed", "in two\\nlines", file=sys.stderr)
warnings.warn("odd")
print("-" * 5000, end="")
logging.getLogger("rerankq.x").debug("ours, not asked for")
logging.getLogger("x").info("theirs")
logging.getLogger("x").info("%d", "wrong")
thread = threading.Thread(target=lambda: 1 / 0, name="t")
thread.start(); thread.join()
class Bad:
    def __del__(self): raise KeyError("panda")
Bad()
raise RuntimeError("the end")
"""


def test_all_that_a_process_says_comes_as_lines() -> None:
    done = subprocess.run([sys.executable, "-c", SAYS], capture_output=True, text=True, check=False)

    told = [json.loads(line) for line in done.stderr.splitlines()]
    assert done.returncode == 1
    assert done.stdout == ""
    assert [(line["level"], line["message"]) for line in told] == [
        ("INFO", "printed"),
        ("WARNING", "printed in two\nlines"),
        ("WARNING", "UserWarning: odd (<string>:7)"),
        ("INFO", "-" * 3500 + "…"),
        ("INFO", "theirs"),
        ("INFO", "a record could not be written: TypeError"),
        ("CRITICAL", "uncaught ZeroDivisionError in thread t"),
        ("ERROR", "ignored KeyError in Bad.__del__"),
        ("CRITICAL", "uncaught RuntimeError"),
    ]
    assert told[-1]["exc"].endswith("RuntimeError: the end")


def test_libraries_stay_at_info_for_they_quote_what_they_handle() -> None:
    says = SAYS.replace('"INFO")', '"DEBUG")').replace('logging.getLogger("x").info("theirs")', "") + (
        'logging.getLogger("x").debug("a text")'
    )
    says = says.replace('raise RuntimeError("the end")\n', "")

    done = subprocess.run([sys.executable, "-c", says], capture_output=True, text=True, check=True)

    assert "ours, not asked for" in done.stderr
    assert "a text" not in done.stderr
