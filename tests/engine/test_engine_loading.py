"""Loading: what an engine says of itself, and what it refuses to load."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from rerankq_worker.engine import Engine, EngineBroken, EngineError, load_engine
from rerankq_worker.model.files import ModelBroken
from rerankq_worker.settings import WorkerSettings
from tests.model_dirs import build_model_dir

Tensors = dict[str, np.ndarray[Any, Any]]


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


def with_weights(directory: Path, change: Callable[[Tensors], Tensors]) -> None:
    file = directory / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


def with_config(directory: Path, **changes: Any) -> None:
    file = directory / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def broken_tokenizer(directory: Path, **changes: Any) -> None:
    file = directory / "tokenizer.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


HEAD = "classifier.dense.weight"
UNLOADABLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a tensor of another shape": (
        lambda d: with_weights(d, lambda t: {**t, HEAD: t[HEAD][:5]}),
        r"hold classifier.dense.weight in the shape \[5, 32\], config.json makes it \[32, 32\]",
    ),
    "more embeddings than the config says": (
        lambda d: with_config(d, vocab_size=650),
        r"hold .*word_embeddings.weight in the shape \[600, 32\], config.json makes it \[650, 32\]",
    ),
    "more layers than the config says": (
        lambda d: with_config(d, num_hidden_layers=2),
        r"hold roberta.encoder.layer.2.* and 15 more, for which the model of config.json has no place",
    ),
    "fewer layers than the config says": (
        lambda d: with_config(d, num_hidden_layers=4),
        r"lacks weights: roberta.encoder.layer.3.* and 15 more",
    ),
    "an adapter among the weights": (
        lambda d: with_weights(d, lambda t: {**t, "roberta.encoder.layer.0.x.lora_A.weight": t[HEAD]}),
        "lora_A.weight, for which .* has no place",
    ),
    "weights that are no numbers": (
        lambda d: with_weights(d, lambda t: {**t, HEAD: t[HEAD] * np.float32("nan")}),
        "classifier.dense.weight holds what is no number",
    ),
    "heads that do not divide the size": (lambda d: with_config(d, num_attention_heads=5), "not a multiple"),
    "a value of another type": (
        lambda d: with_config(d, layer_norm_eps="tiny"),
        "cannot be read as a model .*layer_norm_eps.* expected float, got str",
    ),
    "a precision that does not exist": (lambda d: with_config(d, dtype="float99"), "float99"),
    "a tokenizer of a newer library": (
        lambda d: broken_tokenizer(d, model={"type": "Newer", "vocab": [["a", 0.0]]}),
        "cannot be read as a model",
    ),
    "a tokenizer that is none": (lambda d: broken_tokenizer(d, added_tokens=7), "cannot be read as a model"),
}


@pytest.mark.parametrize(("breakage", "complaint"), UNLOADABLE.values(), ids=UNLOADABLE)
def test_what_does_not_load_is_said_of_the_model_in_one_line(
    tiny_dir: Path, tmp_path: Path, breakage: Callable[[Path], object], complaint: str
) -> None:
    directory = Path(shutil.copytree(tiny_dir, tmp_path / "broken"))
    breakage(directory)

    with pytest.raises(ModelBroken, match=complaint) as caught:
        Engine.load(directory, device="cpu")

    assert "\n" not in str(caught.value)


def test_an_attention_that_the_config_asks_for_is_not_needed(
    tiny: Engine, tiny_dir: Path, tmp_path: Path
) -> None:
    directory = Path(shutil.copytree(tiny_dir, tmp_path / "flash"))
    with_config(directory, attn_implementation="flash_attention_2", _attn_implementation="flash_attention_2")

    engine = Engine.load(directory, device="cpu")

    pairs = [("panda", "bear")]
    assert engine.score_pairs(pairs).tolist() == tiny.score_pairs(pairs).tolist()


def test_want_of_memory_is_not_said_of_the_model(tiny_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("transformers.AutoModelForSequenceClassification.from_pretrained", fail)

    with pytest.raises(EngineBroken, match="does not fit"):
        Engine.load(tiny_dir, device="cpu")


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
    from sentence_transformers import CrossEncoder  # not at collection, which every process does

    encoder = CrossEncoder(str(tiny_dir), device="cpu", local_files_only=True)
    expected = encoder.predict([pairs[n] for n in some], activation_fn=lambda x: x, show_progress_bar=False)
    np.testing.assert_allclose(logits[list(some)], expected, atol=1e-4)
