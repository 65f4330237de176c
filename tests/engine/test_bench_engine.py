"""What `benchmarks.bench_engine` tells, by its parts: no race is run here, and no GPU is needed."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import bench_engine, contestants
from benchmarks.bench_engine import Runner, Workload, model_directory, ratios, result_of
from benchmarks.contestants import plain_transformers
from rerankq_worker.engine import Engine
from rerankq_worker.model.files import read_config
from tests.engine.definition import PAIRS
from tests.model_dirs import SHAPES

WORK = Workload("two", [("a", "b")] * 2, 8, 8, flops=8e9)


def runner(name: str, seconds: list[float], logit: float, held: int = 0, peak: int = 0) -> Runner:
    return Runner(name, "fp16", lambda _: np.zeros(2), held, np.full(2, logit), peak, seconds)


def test_a_ratio_is_of_one_round_and_told_as_median_and_range() -> None:
    assert ratios([2.0, 9.0, 4.0], [1.0, 3.0, 4.0]) == {"ratio": 2.0, "ratio_low": 1.0, "ratio_high": 3.0}


def test_a_contestant_is_told_with_its_share_of_the_peak_and_its_own_memory() -> None:
    theirs = runner("crossencoder", [4.0], logit=1.0)

    told = result_of(runner("rerankq fp16", [2.0], 1.25, held=5, peak=7), theirs, WORK, peak=16e9)

    assert {**told, **{"baseline": "crossencoder", "ratio": 2.0, "pairs_per_second": 1.0}} == told
    assert {**told, **{"mfu": 0.25, "largest_difference": 0.25}} == told
    assert (told["held_device_bytes"], told["peak_device_bytes"]) == (5, 7)


def test_memory_that_was_not_seen_is_told_as_none() -> None:
    infinity = runner("infinity", [1.0], 0.0)

    assert result_of(infinity, infinity, WORK, 1e9)["peak_device_bytes"] is None


def test_a_host_with_a_gpu_and_torch_alone_races_against_transformers_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(contestants, "find_spec", {}.get)

    names = [contestant.name for contestant in contestants.contestants("cuda")]

    assert names == [contestants.STAND_IN, "rerankq fp16", "rerankq fp16 batch 128"]
    assert "sentence_transformers is not installed" in capsys.readouterr().out


def test_transformers_own_scores_as_the_engine_does(tiny_dir: Path) -> None:
    score = plain_transformers("padded", "fp32", 3).make(tiny_dir, "cpu", 64)
    pairs = [PAIRS[name] for name in ("english", "chinese", "mixed", "empty document")]

    engine = Engine.load(tiny_dir, device="cpu", max_length_tokens=64)

    np.testing.assert_allclose(score(pairs), engine.score_pairs(pairs), atol=1e-4)


def test_a_true_shape_has_the_vocabulary_of_the_true_model_wherever_it_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_engine, "SHARED", tmp_path / "none")
    monkeypatch.setitem(SHAPES, "true-shape", SHAPES["short"])

    built = read_config(model_directory("true-shape", tmp_path))

    assert built["vocab_size"] == 250_002
