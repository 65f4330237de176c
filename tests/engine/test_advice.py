"""What a message tells people to do is done here, to the letter, and then the model is served."""

import json
import re
import shutil
import subprocess
import warnings
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path

import pytest
import sentencepiece
import torch
from safetensors.torch import load_file, save_file

from rerankq_worker.engine import Engine
from rerankq_worker.model.files import ModelBroken, ModelNotFound
from rerankq_worker.model_commands.converting import convert
from rerankq_worker.settings import WorkerSettings

pytestmark = pytest.mark.usefixtures("gpus_stay_visible")

PAIRS = [("panda", "The giant panda is a bear."), ("什么是大熊猫？", "大熊猫是熊科动物。")]


@pytest.fixture
def model_dir(tiny_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_dir, tmp_path / "reranker"))


def rename(directory: Path, rule: Callable[[str], str]) -> None:
    file = directory / "model.safetensors"
    save_file({rule(name): tensor for name, tensor in load_file(file).items()}, file, {"format": "pt"})


def keep_embeddings(directory: Path, tokens: int) -> None:
    config, weights = directory / "config.json", directory / "model.safetensors"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"vocab_size": tokens}))
    tensors = load_file(weights)
    name = next(name for name in tensors if name.endswith("word_embeddings.weight"))
    save_file(tensors | {name: tensors[name][:tokens].clone()}, weights, {"format": "pt"})


def refusal(model: Path | str, *, offline: bool = False) -> str:
    with pytest.raises((ModelBroken, ModelNotFound)) as caught:
        Engine.load(model, device="cpu", offline=offline)
    return str(caught.value)


def follow(message: str, within: Path) -> None:
    """Run the command or the program that a message quotes as a shell does; here, where torch is loaded already."""
    for model, target in re.findall(r"`rerankq model convert (\S+) --to (\S+)`", message):
        with chdir(within):
            convert(WorkerSettings(model=model, devices="cpu", threads=1, offline=True), Path(target))
        return
    (quoted,) = re.findall(r'python -c (".*")', message)
    program = subprocess.run(
        f"printf %s {quoted}", shell=True, capture_output=True, text=True, check=True
    ).stdout
    with chdir(within), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(program, {"__name__": "__main__"})


def scores(model: Path | str) -> list[float]:
    return Engine.load(model, device="cpu").score_pairs(PAIRS).tolist()


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod."])
def test_weights_with_a_wrapper_in_their_names_are_renamed(
    tiny: Engine, model_dir: Path, prefix: str
) -> None:
    rename(model_dir, lambda name: prefix + name)

    message = refusal(model_dir)
    follow(message, model_dir)

    assert f"their names begin with {prefix!r}" in message
    assert scores(model_dir) == tiny.score_pairs(PAIRS).tolist()


def test_pickled_weights_are_converted(tiny: Engine, model_dir: Path) -> None:
    torch.save(load_file(model_dir / "model.safetensors"), model_dir / "pytorch_model.bin")
    (model_dir / "model.safetensors").unlink()

    follow(refusal(model_dir), model_dir)

    assert scores(model_dir) == tiny.score_pairs(PAIRS).tolist()


@pytest.fixture
def cached(model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The snapshot of some/reranker in a cache of the Hub's library."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "cache" / "models--some--reranker"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    shutil.move(model_dir, repository / "snapshots" / commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return repository / "snapshots" / commit


def test_a_damaged_file_of_the_cache_is_deleted_before_it_is_fetched_again(cached: Path) -> None:
    """The Hub's library takes a file that is there for whole, and would fetch nothing."""
    (cached / "model.safetensors").write_bytes(b"cut")

    message = refusal("some/reranker", offline=True)

    assert f"run `rm -r {cached.parents[1]} && rerankq model pull some/reranker`" in message


def test_a_model_without_a_head_is_called_one(model_dir: Path) -> None:
    file = model_dir / "model.safetensors"
    body = {name: tensor for name, tensor in load_file(file).items() if not name.startswith("classifier.")}
    save_file(body, file, {"format": "pt"})

    assert "a model without its head gives vectors, not scores" in refusal(model_dir)


def test_weights_named_by_other_code_are_called_so(model_dir: Path) -> None:
    rename(model_dir, lambda name: name.replace("encoder.layer.", "encoder.blocks."))

    message = refusal(model_dir)

    assert "names them otherwise (roberta.encoder.blocks.0." in message
    assert "fetch" not in message


def test_weights_beside_an_adapter_are_served_alone_once_it_is_deleted(tiny: Engine, model_dir: Path) -> None:
    (model_dir / "adapter_config.json").write_text("{}")
    (model_dir / "adapter_model.safetensors").write_bytes(b"")

    message = refusal(model_dir)
    for name in re.findall(r"adapter_\w+\.\w+", message.split("or delete")[1]):
        (model_dir / name).unlink()

    assert scores(model_dir) == tiny.score_pairs(PAIRS).tolist()


def test_a_quantization_of_plain_weights_is_removed_from_the_config(shared: Path, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(shared / "models" / "quantcfg", tmp_path / "quantcfg"))
    config = json.loads((directory / "config.json").read_text())

    assert "remove that key" in refusal(directory)
    (directory / "config.json").chmod(0o644)
    del config["quantization_config"]
    (directory / "config.json").write_text(json.dumps(config))

    assert len(scores(directory)) == len(PAIRS)


def test_a_config_that_does_not_tell_labels_leaves_them_to_the_weights(tiny: Engine, model_dir: Path) -> None:
    config = json.loads((model_dir / "config.json").read_text())
    for key in ("architectures", "id2label", "label2id"):
        config.pop(key, None)
    (model_dir / "config.json").write_text(json.dumps(config))

    assert scores(model_dir) == tiny.score_pairs(PAIRS).tolist()


@pytest.mark.parametrize("is_read_as_it_is", [True, False])
def test_a_tokenizer_that_transformers_reads_otherwise_is_served_once_that_is_settled(
    model_dir: Path, is_read_as_it_is: bool
) -> None:
    definition = json.loads((model_dir / "tokenizer.json").read_text())
    definition["normalizer"] = {"type": "Lowercase"}
    (model_dir / "tokenizer.json").write_text(json.dumps(definition))

    message = refusal(model_dir)
    if is_read_as_it_is:
        config = json.loads((model_dir / "tokenizer_config.json").read_text())
        (said,) = re.findall(r'"tokenizer_class": "\w+"', message)
        (model_dir / "tokenizer_config.json").write_text(json.dumps(config | json.loads(f"{{{said}}}")))
    else:
        follow(message, model_dir)

    from sentence_transformers import CrossEncoder  # not at collection, which every process does

    reference = CrossEncoder(str(model_dir), device="cpu", local_files_only=True)
    expected = reference.predict(PAIRS, activation_fn=lambda logit: logit, show_progress_bar=False)
    assert scores(model_dir) == pytest.approx(expected, abs=1e-4)


def test_the_vocabulary_of_sentencepiece_becomes_a_tokenizer(model_dir: Path) -> None:
    """Where protobuf is installed; elsewhere the command says that it is wanted."""
    (model_dir / "tokenizer.json").unlink()
    message = refusal(model_dir)

    pytest.importorskip("google.protobuf")
    text = model_dir / "corpus.txt"
    text.write_text("\n".join(f"{query} {document}" for query, document in PAIRS))
    sentencepiece.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(model_dir / "sentencepiece.bpe"),
        vocab_size=60,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    pieces = sentencepiece.SentencePieceProcessor(str(model_dir / "sentencepiece.bpe.model")).get_piece_size()
    keep_embeddings(model_dir, pieces + 2)  # XLM-RoBERTa has <pad> and <mask> besides
    follow(message, model_dir)

    assert len(scores(model_dir)) == len(PAIRS)
