"""Which models are served and which are waited for, as workers and lanes say it."""

import pytest

from rerankq.contract.heartbeats import WorkerStatus
from rerankq.contract.messages import LANES, Lane
from rerankq.contract.served import ServedModel, percentages, served_models

Waiting = dict[tuple[Lane, str | None], int]


def worker(model: str, revision: str = "1", recent_pairs: float = 0.0) -> WorkerStatus:
    return WorkerStatus(
        name=f"{model}@h",
        state="ready",
        lanes=LANES,
        model=model,
        revision=revision,
        recent_pairs=recent_pairs,
    )


def rows(found: list[ServedModel]) -> list[tuple[str, int, int, float | None]]:
    return [(each.names[-1], len(each.workers), sum(each.waiting.values()), each.share) for each in found]


def test_each_revision_is_a_model_with_its_workers_its_jobs_and_its_share() -> None:
    workers = [worker("b", "2", 30.0), worker("a"), worker("b", "1", 5.0), worker("b", "1", 5.0), worker("")]
    waiting: Waiting = {("bulk", None): 9, ("bulk", "b"): 1, ("bulk", "b@2"): 2, ("interactive", "b@2"): 4}

    assert rows(served_models(workers, waiting)) == [
        ("a@1", 1, 0, 0.0),
        ("b@1", 2, 1, 0.25),
        ("b@2", 1, 7, 0.75),
    ]


def test_what_nobody_serves_is_listed_last_by_the_name_that_jobs_have_for_it() -> None:
    found = served_models([worker("z")], {("bulk", "a@7"): 3, ("interactive", "a@7"): 1, ("bulk", "z"): 1})

    assert rows(found) == [("z@1", 1, 1, None), ("a@7", 0, 4, None)]


@pytest.mark.parametrize(
    ("shares", "whole"),
    [
        ([], []),
        ([1.0], [100]),
        ([1 / 3] * 3, [34, 33, 33]),
        ([0.996, 0.004], [100, 0]),
        ([0.125] * 8, [13, 13, 13, 13, 12, 12, 12, 12]),
    ],
    ids=str,
)
def test_whole_percentages_add_up_to_a_hundred(shares: list[float], whole: list[int]) -> None:
    assert percentages(shares) == whole
