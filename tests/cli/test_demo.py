"""What the demo says of its model and its jobs."""

import json
from pathlib import Path

import pytest

from rerankq.cli.demo import RANDOM_MODEL_KEY, demo_jobs, is_random


def test_the_demo_asks_the_three_jobs_in_their_order() -> None:
    jobs = demo_jobs()

    assert [(len(job.documents), job.top_n) for job in jobs] == [(3, 3), (4, 4), (20, 5)]
    assert jobs[1].query == "中国的首都是哪里？"


@pytest.mark.parametrize(
    ("config", "random"),
    [
        pytest.param({RANDOM_MODEL_KEY: True}, True, id="made on the spot"),
        pytest.param({}, False, id="trained"),
    ],
)
def test_a_model_that_nobody_trained_is_known_by_its_config(
    tmp_path: Path, config: dict[str, bool], random: bool
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))

    assert is_random(str(tmp_path)) is random


def test_a_model_of_the_hub_or_the_box_is_not_taken_for_random() -> None:
    assert not is_random("BAAI/bge-reranker-v2-m3")
    assert not is_random(None)
