"""What a job's message says of its caller's trace. Needs no OpenTelemetry; with it: tests/worker/test_traces.py."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator

import pytest

from rerankq.contract import traces
from rerankq.contract.clock import RedisClock
from rerankq.contract.messages import parse_request
from rerankq.submission import job_submission

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
READ = {
    f"00-{TRACE}-{SPAN}-01": traces.Origin(TRACE, SPAN, True),
    f"00-{TRACE}-{SPAN}-00": traces.Origin(TRACE, SPAN, False),
    f"cc-{TRACE}-{SPAN}-01-what-comes-later": traces.Origin(TRACE, SPAN, True),
    f"ff-{TRACE}-{SPAN}-01": None,
    f"00-{'0' * 32}-{SPAN}-01": None,
    f"00-{TRACE}-{'0' * 16}-01": None,
    f"00-{TRACE.upper()}-{SPAN}-01": None,
    f"00-{TRACE}-{SPAN}-01\n": None,
    "panda": None,
    "": None,
}


@pytest.mark.parametrize("told", READ, ids=range(len(READ)))
def test_a_header_is_read_as_w3c_writes_it(told: str) -> None:
    assert traces.read(told) == READ[told]


@pytest.mark.parametrize("told", [None, 5, [], b"00"])
def test_anything_else_in_its_place_is_none(told: object) -> None:
    assert traces.read(told) is None


@contextlib.contextmanager
def handed(told: str) -> Iterator[None]:
    before = traces.handed.set(told)
    yield
    traces.handed.reset(before)


def test_a_message_says_which_span_it_follows_from() -> None:
    request = parse_request({"query": "q", "documents": ["d"]})

    with handed(f"00-{TRACE}-{SPAN}-01"):
        within = job_submission(request, None, RedisClock()).message()
    without = job_submission(request, None, RedisClock()).message()

    assert within["headers"]["traceparent"] == f"00-{TRACE}-{SPAN}-01"
    assert without["headers"].keys() == within["headers"].keys() - {"traceparent"}


NOT_INSTALLED = """
import sys
sys.modules["opentelemetry"] = None
from rerankq.contract.clock import RedisClock
from rerankq.contract.messages import parse_request
from rerankq.submission import job_submission
made = job_submission(parse_request({"query": "q", "documents": ["d"]}), None, RedisClock())
assert "traceparent" not in made.message()["headers"]
"""


def test_who_asks_needs_no_opentelemetry() -> None:
    subprocess.run([sys.executable, "-c", NOT_INSTALLED], check=True)
