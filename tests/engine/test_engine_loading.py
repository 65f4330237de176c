"""Loading: what an engine says of itself, and what it refuses to load."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from sentence_transformers import CrossEncoder

from rerankq_worker.engine import Engine, EngineError, load_engine
from rerankq_worker.model_files import ModelBroken
from rerankq_worker.settings import WorkerSettings
from tests.model_dirs import build_model_dir


def test_an_engine_says_what_it_is(tiny_dir: Path) -> None:
    info = Engine.load(tiny_dir, device="cpu", max_length_tokens=512, max_batch_pairs=8).info

    assert (info.model, info.device, info.dtype) == ("tiny", "cpu", "fp32")
    assert info.revision.startswith("sha256:")
    assert (info.max_length_tokens, info.max_batch_pairs, info.max_batch_tokens) == (512, 8, 1024)


def test_the_length_is_capped_at_the_position_table(tmp_path: Path) -> None:
    engine = Engine.load(build_model_dir(tmp_path, "short"), device="cpu", max_length_tokens=1024)

    assert engine.info.max_length_tokens == 64
    assert np.isfinite(engine.score_pairs([("panda", "bear " * 500)])).all()


def test_a_token_budget_below_one_row_is_refused(tiny_dir: Path) -> None:
    with pytest.raises(EngineError, match=r"at least max_length_tokens \(1024\), got 256"):
        Engine.load(tiny_dir, device="cpu", max_batch_tokens=256)


def test_weights_that_are_missing_are_not_made_up(tiny_dir: Path, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(tiny_dir, tmp_path / "headless"))
    tensors = load_file(directory / "model.safetensors")
    del tensors["classifier.out_proj.weight"]
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(ModelBroken, match=r"lacks weights: classifier\.out_proj\.weight"):
        Engine.load(directory, device="cpu")


def test_a_checkpoint_in_half_precision_is_computed_in_full(
    tiny: Engine, tiny_dir: Path, tmp_path: Path
) -> None:
    directory = Path(shutil.copytree(tiny_dir, tmp_path / "half"))
    tensors = {
        name: tensor.astype(np.float16) for name, tensor in load_file(directory / "model.safetensors").items()
    }
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})

    engine = Engine.load(directory, device="cpu")

    pairs = [("panda", "bear"), ("panda", "大熊猫是中国特有的")]
    np.testing.assert_allclose(engine.score_pairs(pairs), tiny.score_pairs(pairs), atol=0.05)


def test_settings_become_an_engine(tiny_dir: Path) -> None:
    settings = WorkerSettings(model=str(tiny_dir), max_length_tokens=128, max_batch_tokens=256)

    info = load_engine(settings, "cpu0").info

    assert (info.model, info.max_length_tokens, info.max_batch_tokens) == ("tiny", 128, 256)


def test_warming_up_changes_no_score(tiny_dir: Path) -> None:
    engine = Engine.load(tiny_dir, device="cpu")
    before = engine.score_pairs([("panda", "bear")])

    engine.warm_up()

    assert engine.score_pairs([("panda", "bear")]).tolist() == before.tolist()


def test_any_number_of_pairs_agrees_with_sentence_transformers(tiny: Engine, tiny_dir: Path) -> None:
    """Several windows of pairs, so that tokenizing ahead is exercised."""
    words = ["panda", "bear", "bamboo", "大熊猫", "China"]
    pairs = [(words[n % 5], " ".join(words[m % 5] for m in range(n % 23))) for n in range(4_500)]

    logits = tiny.score_pairs(pairs)

    some = range(0, len(pairs), 97)
    encoder = CrossEncoder(str(tiny_dir), device="cpu", local_files_only=True)
    expected = encoder.predict([pairs[n] for n in some], activation_fn=lambda x: x, show_progress_bar=False)
    np.testing.assert_allclose(logits[list(some)], expected, atol=1e-4)
