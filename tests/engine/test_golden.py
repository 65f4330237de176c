"""Published scores: what is known, and what counts as giving them. No real weights are needed here."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from rerankq_worker.engine import Engine
from rerankq_worker.engine.errors import EngineDrifted
from rerankq_worker.engine.golden import refuse_drift, verify
from rerankq_worker.engine.linears import can_compute_int8
from rerankq_worker.model.files import KNOWN_REVISIONS
from rerankq_worker.model.published import golden_pairs

HUB_ID = "BAAI/bge-reranker-v2-m3"


@dataclass
class Info:
    model: str
    dtype: str = "fp32"
    revision: str = "0123456789abcdef"


class Scorer:
    """Gives the published logits, one of them moved."""

    def __init__(self, model: str, moved_by: float = 0.0, dtype: str = "fp32") -> None:
        self.info = Info(model, dtype)
        self.moved_by = moved_by

    def score_pairs(self, pairs: list[tuple[str, str]]) -> np.ndarray:
        known = {(pair.query, pair.document): pair.logit for pair in golden_pairs(self.info.model)}
        logits = np.array([known.get(pair, 0.0) for pair in pairs], dtype=np.float32)
        if len(logits):
            logits[0] += self.moved_by
        return logits


@pytest.mark.parametrize(
    "model", ["BAAI/bge-reranker-v2-m3", "bge-reranker-v2-m3"], ids=["hub id", "directory"]
)
def test_an_engine_that_gives_the_published_scores_is_verified(model: str) -> None:
    results = verify(Scorer(model))

    assert len(results) >= 7
    assert all(result.ok for result in results)


@pytest.mark.parametrize("moved_by", [0.06, -0.06, float("nan")])
def test_an_engine_that_drifts_is_not_verified(moved_by: float) -> None:
    results = verify(Scorer("BAAI/bge-reranker-v2-m3", moved_by))

    assert [result.ok for result in results] == [False] + [True] * (len(results) - 1)


def test_a_coarser_precision_may_differ_by_what_it_costs() -> None:
    assert verify(Scorer("BAAI/bge-reranker-v2-m3", moved_by=0.15, dtype="bf16"))[0].ok


def test_the_short_form_is_three_pairs() -> None:
    assert len(verify(Scorer("BAAI/bge-reranker-v2-m3"), short=True)) == 3


def test_a_model_nobody_published_scores_of_has_nothing_to_verify() -> None:
    assert verify(Scorer("my/own-reranker")) == []


def test_the_figures_are_the_published_ones(shared: Path) -> None:
    published = json.loads((shared / "fixtures" / "expected_scores.json").read_text(encoding="utf-8"))
    logits = {
        (entry["query"], entry["document"]): entry.get("raw_from_sigmoid", entry["expected"])
        for entry in reversed(published["bge-reranker-v2-m3"])
    }

    for pair in golden_pairs("bge-reranker-v2-m3"):
        assert logits[pair.query, pair.document] == pytest.approx(pair.logit, abs=1e-4)
        assert pair.source


@pytest.fixture
def known_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit whose scores somebody has compared."""
    monkeypatch.setitem(KNOWN_REVISIONS, HUB_ID, Info(HUB_ID).revision)


@pytest.mark.usefixtures("known_commit")
def test_known_weights_that_drift_are_kept_out_of_service() -> None:
    with pytest.raises(EngineDrifted, match="is known; check the weights"):
        refuse_drift(Scorer(HUB_ID, moved_by=0.06))


@pytest.mark.usefixtures("known_commit")
@pytest.mark.parametrize("model", [HUB_ID, "my/own-reranker"])
def test_an_engine_as_it_should_be_is_let_into_service(model: str) -> None:
    refuse_drift(Scorer(model))


def test_at_an_unknown_commit_the_hub_id_of_published_scores_is_warned_of_and_served(
    caplog: pytest.LogCaptureFixture,
) -> None:
    refuse_drift(Scorer(HUB_ID, moved_by=3.0))

    assert "is published; at commit 0123456789abcdef nobody has compared yet, so it is served" in caplog.text


@pytest.mark.parametrize("model", ["bge-reranker-v2-m3", "my/bge-reranker-v2-m3", "small"])
def test_a_fine_tune_may_be_called_like_its_parent(caplog: pytest.LogCaptureFixture, model: str) -> None:
    refuse_drift(Scorer(model, moved_by=3.0))

    assert caplog.text == ""


@pytest.mark.parametrize("model", [HUB_ID, "bge-reranker-v2-m3", "my/own-reranker", "small"])
def test_no_model_is_served_that_gives_no_numbers(model: str) -> None:
    with pytest.raises(EngineDrifted, match="gives no number"):
        refuse_drift(Scorer(model, moved_by=float("nan")))


@pytest.mark.parametrize("name", ["small", "bge-reranker-v2-m3"])
def test_other_weights_in_a_directory_of_a_known_name_are_served(
    tiny_dir: Path, tmp_path: Path, name: str
) -> None:
    engine = Engine.load(Path(shutil.copytree(tiny_dir, tmp_path / "copy" / name)), device="cpu")

    refuse_drift(engine)

    assert engine.info.model == name


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16", "int8"])
def test_the_small_model_gives_its_golden_scores(dtype: str) -> None:
    if dtype == "int8" and not can_compute_int8():
        pytest.skip("this processor or this torch has no int8 product")
    results = verify(Engine.load("small", device="cpu", dtype=dtype))

    assert len(results) >= 8
    assert [result for result in results if not result.ok] == []
