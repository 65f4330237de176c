"""The small model comes to lie on disk whole, once, and as pinned."""

import hashlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from rerankq_worker.model.small import WEIGHTS_SHA256, SmallModelBroken, circuit, materialise
from rerankq_worker.model.small.shelf import WORDS, trained_weights, written_weights


def test_the_weights_have_the_pinned_hash_and_fit_in_12_mb(small_model_dir: Path):
    weights = (small_model_dir / "model.safetensors").read_bytes()

    assert hashlib.sha256(weights).hexdigest() == WEIGHTS_SHA256
    assert len(weights) < 12_000_000


def test_safetensors_reads_every_tensor_as_finite_fp16(small_model_dir: Path):
    tensors = load_file(small_model_dir / "model.safetensors")

    assert {tensor.dtype for tensor in tensors.values()} == {np.dtype(np.float16)}
    assert all(np.isfinite(tensor).all() for tensor in tensors.values())


def test_only_the_last_layer_the_classifier_and_the_weights_of_pieces_were_trained():
    written, trained = written_weights(), trained_weights()

    changed = {name for name, tensor in written.items() if (tensor != trained[name]).any()}
    columns = np.flatnonzero((written[WORDS] != trained[WORDS]).any(axis=0))

    assert trained.keys() == written.keys()
    assert {name.removeprefix("roberta.encoder.").split(".")[0] for name in changed - {WORDS}} == {
        "layer",
        "classifier",
    }
    assert {name.split(".")[3] for name in changed if ".layer." in name} == {str(circuit.LAYERS - 1)}
    assert columns.tolist() == [circuit.feature("log_idf"), circuit.feature("log_idf") + 1]


def test_the_directory_holds_what_a_model_directory_holds(small_model_dir: Path):
    assert {path.name for path in small_model_dir.iterdir()} == {
        "config.json",
        "model.safetensors",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }


def test_a_second_call_writes_nothing(tmp_path: Path):
    first = materialise(tmp_path)
    written_at = (first / "model.safetensors").stat().st_mtime_ns

    second = materialise(tmp_path)

    assert second == first
    assert (second / "model.safetensors").stat().st_mtime_ns == written_at


def test_the_cache_directory_can_be_named_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RERANKQ_CACHE_DIR", str(tmp_path))

    assert materialise().parent == tmp_path


def test_several_at_once_leave_one_whole_directory(tmp_path: Path):
    with ThreadPoolExecutor(4) as pool:
        directories = set(pool.map(lambda _: materialise(tmp_path), range(4)))

    assert list(tmp_path.iterdir()) == list(directories)


def test_weights_changed_by_one_bit_are_refused_in_one_line(tmp_path: Path):
    weights = materialise(tmp_path) / "model.safetensors"
    flipped = bytearray(weights.read_bytes())
    flipped[-1] ^= 1
    weights.write_bytes(flipped)

    with pytest.raises(SmallModelBroken, match=r"^expected .* got .*; delete .*$") as error:
        materialise(tmp_path)

    assert "\n" not in str(error.value)


def test_writing_it_imports_neither_torch_nor_transformers(tmp_path: Path):
    program = (
        "import sys; from pathlib import Path; from rerankq_worker.model.small import materialise; "
        "materialise(Path(sys.argv[1])); print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )

    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == "[]"


def test_the_module_prints_path_hash_and_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RERANKQ_CACHE_DIR", str(tmp_path))

    done = subprocess.run(
        [sys.executable, "-m", "rerankq_worker.model.small"], capture_output=True, text=True, check=True
    )

    assert str(tmp_path) in done.stdout
    assert WEIGHTS_SHA256 in done.stdout
    assert "MB" in done.stdout
