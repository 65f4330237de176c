"""The small model comes to lie on disk whole, once, and as pinned."""

import hashlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from rerankq_worker.model.small import WEIGHTS_SHA256, SmallModelBroken, materialise


def test_safetensors_reads_every_tensor_as_finite_fp16(small_model_dir: Path):
    tensors = load_file(small_model_dir / "model.safetensors")

    assert {tensor.dtype for tensor in tensors.values()} == {np.dtype(np.float16)}
    assert all(np.isfinite(tensor).all() for tensor in tensors.values())


def test_the_directory_is_the_known_one_to_the_byte(small_model_dir: Path):
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in small_model_dir.iterdir()}

    assert found == {
        "config.json": "00017fbb7ee457d38831568cc3077bcc0cec45a71cfb943484deeb8c5df4ab83",
        "model.safetensors": WEIGHTS_SHA256,
        "special_tokens_map.json": "d38d4b2f7646eb7920f27bd38bd6f13842bccd982cafb8faf50107bb5b5e6f34",
        "tokenizer.json": "d52ee79ec5e50b7bf51489b9fed26c0198004ed88d2baeb280c97319c7a209c4",
        "tokenizer_config.json": "ce4ee040a94ec2c107b6afc2ccdf875bb7e8d132c092d9348225144d95fc651a",
    }
    assert WEIGHTS_SHA256.startswith("d85fd6e82c98")  # what README.md shows


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


def test_its_module_of_old_says_in_one_line_where_it_is():
    done = subprocess.run(
        [sys.executable, "-m", "rerankq_worker.small_model"], capture_output=True, text=True, check=False
    )

    assert done.returncode == 1
    assert done.stderr.startswith("rerankq_worker.small_model is gone; `rerankq-worker build-small`")


def test_unpacking_it_imports_neither_numpy_nor_torch(tmp_path: Path):
    program = (
        "import sys; from pathlib import Path; from rerankq_worker.model.small import materialise; "
        "materialise(Path(sys.argv[1])); print(sorted({'numpy', 'torch', 'transformers'} & set(sys.modules)))"
    )

    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == "[]"
