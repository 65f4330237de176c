"""The lists of lanes, and the names by which other languages find them."""

import re

import pytest

from rerankq.contract.keys import lane_of, queue_of
from rerankq.contract.messages import Lane
from tests.conftest import REPOSITORY

QUEUES = {
    "of jobs that name no model": ("rerankq.bulk", "bulk", None),
    "of a model": ("rerankq.bulk@81db8ebbbbc6", "bulk", "small"),
    "of a revision": ("rerankq.interactive@738f388fd5cf", "interactive", "small@1"),
    "of a name that is not ASCII": ("rerankq.interactive@c98e118e0a43", "interactive", "模型"),
}


@pytest.mark.parametrize(("queue", "lane", "model"), QUEUES.values(), ids=QUEUES)
def test_a_list_is_named_by_its_lane_and_what_its_jobs_call_their_model(
    queue: str, lane: Lane, model: str | None
) -> None:
    assert (queue_of(lane, model), lane_of(queue)) == (queue, lane)


def test_what_is_no_lane_is_patient() -> None:
    assert [lane_of(queue) for queue in ("celery", "rerankq.urgent@1", "unknown")] == ["bulk"] * 3


def test_the_documented_digest_is_the_one_that_is_used() -> None:
    text = (REPOSITORY / "docs" / "transport.md").read_text(encoding="utf-8")
    told = re.search(r"printf %s (\S+) \| sha256sum \| cut -c1-12` prints `(\w+)`", text)

    assert told is not None
    assert queue_of("bulk", told[1]) == f"rerankq.bulk@{told[2]}"
