"""Pickled weights become safetensors in a process of its own, and nothing that a pickle asks for is run."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rerankq_worker.engine import Engine
from rerankq_worker.engine.conversion import _make_tokenizer, _read, _refuse_reaching_out
from rerankq_worker.model.errors import ModelBroken, ModelError, ModelNotFound
from rerankq_worker.model.files import find_model
from rerankq_worker.model.programs import run_apart
from rerankq_worker.model_commands.converting import PROGRAM, convert
from rerankq_worker.settings import WorkerSettings
from tests.fake_hub import fake_hub

pytestmark = pytest.mark.usefixtures("gpus_stay_visible")

PAIRS = [("panda", "The giant panda is a bear."), ("什么是大熊猫？", "大熊猫是熊科动物。")]


class Touch:
    """What a hostile pickle holds: a call that is made when it is read."""

    def __init__(self, target: Path, function: Callable[..., Any] = os.system) -> None:
        self.target, self.function = target, function

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, (f"touch {self.target}",)


@pytest.fixture
def model_dir(tiny_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_dir, tmp_path / "reranker"))


@pytest.fixture
def weights(model_dir: Path) -> dict[str, torch.Tensor]:
    """The tiny model's, whose file is gone."""
    tensors = load_file(model_dir / "model.safetensors")
    (model_dir / "model.safetensors").unlink()
    return tensors


def settings(model: Path | str) -> WorkerSettings:
    return WorkerSettings(model=str(model), devices="cpu", threads=1)


def test_pickles_in_shards_at_the_hub_become_a_directory_that_is_served(
    tiny: Engine,
    model_dir: Path,
    weights: dict[str, torch.Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = sorted(weights)
    for number, part in enumerate((names[:9], names[9:]), start=1):
        torch.save({name: weights[name] for name in part}, model_dir / f"pytorch_model-{number}-of-2.bin")
    placed = {name: f"pytorch_model-{1 if name in names[:9] else 2}-of-2.bin" for name in names}
    (model_dir / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": placed}))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))

    with fake_hub("some/reranker", {file.name: file.read_bytes() for file in model_dir.iterdir()}) as served:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", served.url)
        monkeypatch.setattr(
            "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
            served.url + "/{repo_id}/resolve/{revision}/{filename}",
        )
        convert(settings("some/reranker"), tmp_path / "converted")

    assert "converted loads: engine packed, fp32 on cpu" in capsys.readouterr().out
    engine = Engine.load(tmp_path / "converted", device="cpu")
    assert engine.score_pairs(PAIRS).tolist() == tiny.score_pairs(PAIRS).tolist()
    assert not list((tmp_path / "converted").glob("*.bin*"))
    assert {file.stat().st_mode & 0o777 for file in (tmp_path / "converted").iterdir()} == {0o644}


def test_a_pickle_that_would_run_something_is_refused_and_nothing_is_run(
    model_dir: Path, weights: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    torch.save(weights | {"extra": Touch(tmp_path / "touched")}, model_dir / "pytorch_model.bin")

    with pytest.raises(ModelBroken, match=r"is refused: it is code .*\((posix|nt)\.system\)") as caught:
        convert(settings(model_dir), tmp_path / "converted")

    assert "\n" not in str(caught.value)
    assert "weights_only" not in str(caught.value)
    assert not (tmp_path / "touched").exists()
    assert not (tmp_path / "converted").exists()


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(lambda file, hostile: file.write_bytes(pickle.dumps(hostile)), id="a bare pickle"),
        pytest.param(
            lambda file, hostile: torch.save(hostile, file, _use_new_zipfile_serialization=False),
            id="old torch",
        ),
        pytest.param(lambda file, _: torch.save({"epoch": 3, "model": {}}, file), id="a training's state"),
        pytest.param(lambda file, _: torch.save([torch.ones(1)], file), id="tensors without names"),
        pytest.param(lambda file, _: file.write_bytes(b"PK\x03\x04cut off"), id="cut off"),
        pytest.param(lambda file, _: file.write_bytes(b""), id="empty"),
        pytest.param(lambda *_: None, id="missing"),
    ],
)
def test_what_is_no_file_of_tensors_is_refused_in_one_line(
    tmp_path: Path, write: Callable[[Path, Touch], Any]
) -> None:
    file = tmp_path / "pytorch_model.bin"
    write(file, Touch(tmp_path / "touched"))

    with pytest.raises(ModelBroken) as caught:
        _read(file)

    assert "\n" not in str(caught.value)
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("new", [True, False], ids=["zip", "old torch"])
def test_tensors_that_share_memory_are_written_each(tmp_path: Path, new: bool) -> None:
    whole = torch.arange(6.0).reshape(2, 3)
    tied = {"a": whole, "b": whole, "row": whole[1], "turned": whole.T}
    torch.save(tied, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=new)

    read = _read(tmp_path / "pytorch_model.bin")

    assert all(
        torch.equal(read[name], tensor) and read[name].is_contiguous() for name, tensor in tied.items()
    )
    assert len({tensor.data_ptr() for tensor in read.values()}) == len(tied)


@pytest.mark.parametrize("event", ["os.system", "subprocess.Popen", "socket.connect", "os.exec", "os.fork"])
def test_a_conversion_reaches_out_to_nothing(event: str) -> None:
    with pytest.raises(PermissionError):
        _refuse_reaching_out(event, ())


def test_a_directory_that_holds_something_is_not_written_over(
    model_dir: Path, weights: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    torch.save(weights, model_dir / "pytorch_model.bin")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")

    with pytest.raises(ModelNotFound, match="expected --to to be a new or an empty directory"):
        convert(settings(model_dir), tmp_path / "mine")


def test_a_model_that_is_as_it_should_be_is_left_alone(
    tiny_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    convert(settings(tiny_dir), tmp_path / "converted")

    assert capsys.readouterr().out.startswith("nothing to convert")
    assert not (tmp_path / "converted").exists()


@pytest.fixture
def with_a_layer(model_dir: Path) -> Path:
    """The tiny model, and a layer of sentence-transformers behind it, which is a pickle."""
    (model_dir / "1_Dense").mkdir()
    torch.save({"linear.weight": torch.ones(1, 1)}, model_dir / "1_Dense" / "pytorch_model.bin")
    (model_dir / "1_Dense" / "another.safetensors").write_bytes(b"")  # which nobody reads instead
    kinds = {"": "sentence_transformers.models.Transformer", "1_Dense": "sentence_transformers.models.Dense"}
    listed = [{"path": path, "type": kind} for path, kind in kinds.items()]
    (model_dir / "modules.json").write_text(json.dumps(listed))
    return model_dir


def test_a_pickle_of_a_layer_beside_the_model_is_refused_with_the_way_out(with_a_layer: Path) -> None:
    with pytest.raises(ModelBroken, match=r"1_Dense/pytorch_model\.bin.*`rerankq model convert"):
        find_model(with_a_layer)


def test_a_layer_beside_the_model_is_converted(with_a_layer: Path, tmp_path: Path) -> None:
    run_apart(PROGRAM, with_a_layer, tmp_path / "converted")

    shutil.copytree(tmp_path / "converted", with_a_layer, dirs_exist_ok=True)
    assert load_file(with_a_layer / "1_Dense" / "model.safetensors")["linear.weight"].tolist() == [[1.0]]
    find_model(with_a_layer)


def test_a_model_without_any_weights_is_told_so(
    model_dir: Path, weights: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=r"has no model\.safetensors"):
        convert(settings(model_dir), tmp_path / "converted")


def test_an_old_vocabulary_becomes_a_tokenizer_or_it_is_said_what_is_missing(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    (old / "config.json").write_text(json.dumps({"model_type": "bert", "vocab_size": 12}))
    with pytest.raises(ModelBroken, match=r"one of 5 tokens where config\.json says 12") as caught:
        _make_tokenizer(AutoTokenizer, old, new)
    (old / "vocab.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "panda", *"abcdef"])
    )

    _make_tokenizer(AutoTokenizer, old, new)

    assert "\n" not in str(caught.value)
    assert "panda" in json.loads((new / "tokenizer.json").read_text())["model"]["vocab"]
