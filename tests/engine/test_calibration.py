"""`rerankq model quantize`: a copy whose int8 is calibrated on pairs of the user's own."""

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from rerankq_worker.engine import Engine, linears
from rerankq_worker.model.errors import ModelBroken, ModelError, ModelNotFound
from rerankq_worker.model_commands.info import print_info
from rerankq_worker.model_commands.quantizing import quantize
from rerankq_worker.settings import WorkerSettings
from tests.model_dirs import CORPUS, build_model_dir

pytestmark = pytest.mark.skipif(not linears.can_compute_int8(), reason="no int8 product here")

JOBS = [
    {"query": CORPUS[n % 6][:30], "documents": [CORPUS[(n + k) % 6][k * 7 :] for k in range(4)]}
    for n in range(12)
]
PAIRS = [(CORPUS[n % 6][5:30], CORPUS[(n + k) % 6][n:]) for n in range(6) for k in range(3)]


def settings(model: object) -> WorkerSettings:
    return WorkerSettings(model=str(model), devices="cpu", threads=1, offline=True)


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("jobs") / "jobs.jsonl"
    file.write_text("\n".join(json.dumps(job) for job in JOBS), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def calibrated(tiny_dir: Path, jobs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("quantized") / "calibrated"
    quantize(settings(tiny_dir), jobs, target)
    return target


def difference(directory: Path, reference: Path) -> float:
    exact, int8 = (
        Engine.load(path, device="cpu", dtype=dtype).score_pairs(PAIRS)
        for path, dtype in ((reference, "fp32"), (directory, "int8"))
    )
    return float(np.abs(int8 - exact).mean())


def test_calibrated_int8_is_about_as_near_to_fp32_as_int8_as_it_is(calibrated: Path, tiny_dir: Path) -> None:
    assert difference(calibrated, tiny_dir) <= 1.5 * difference(tiny_dir, tiny_dir)


def test_a_calibrated_model_is_exact_in_fp32(calibrated: Path, tiny_dir: Path) -> None:
    mine, theirs = (Engine.load(path, device="cpu").score_pairs(PAIRS) for path in (calibrated, tiny_dir))

    assert mine.tolist() == theirs.tolist()


def test_a_pair_scores_the_same_in_calibrated_int8_whoever_shares_its_batch(calibrated: Path) -> None:
    engine = Engine.load(calibrated, device="cpu", dtype="int8")

    alone = [engine.score_pairs([pair])[0] for pair in PAIRS]

    assert np.abs(engine.score_pairs(PAIRS) - alone).max() <= 1e-4


def test_a_calibrated_model_says_of_what_and_on_what(
    calibrated: Path, tiny_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    print_info(settings(calibrated), as_json=False)

    said = " ".join(capsys.readouterr().out.split())
    assert f"int8 of {tiny_dir.name} (sha256:" in said
    assert "on 36 pairs of jobs.jsonl" in said


def test_a_calibrated_model_has_a_revision_of_its_own(calibrated: Path, tiny_dir: Path) -> None:
    mine, theirs = (Engine.load(path, device="cpu").info.revision for path in (calibrated, tiny_dir))

    assert mine != theirs


def test_a_calibration_beside_other_weights_is_refused(calibrated: Path, tmp_path: Path) -> None:
    other = build_model_dir(tmp_path / "other", seed=8)
    shutil.copy(calibrated / "int8_calibration.safetensors", other)

    with pytest.raises(
        ModelBroken, match=r"made for other weights .* delete it, or run `rerankq model quantize`"
    ):
        Engine.load(other, device="cpu", dtype="int8")
    Engine.load(other, device="cpu")


def test_a_gzipped_file_with_documents_as_objects_is_read(tiny_dir: Path, tmp_path: Path) -> None:
    jobs = [{**job, "documents": [{"id": "a", "text": text} for text in job["documents"]]} for job in JOBS]
    file = tmp_path / "jobs.jsonl.gz"
    file.write_bytes(gzip.compress("\n".join(map(json.dumps, jobs)).encode()))

    assert quantize(settings(tiny_dir), file, tmp_path / "to") == 0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        pytest.param(b"", "expected --pairs to hold 20 pairs or more", id="empty"),
        pytest.param(b"secret\n", r"line 1: expected {\"query\"", id="no JSON"),
        pytest.param(b'{"query": "secret"}\n', r"line 1: expected {\"query\"", id="no documents"),
        pytest.param(b'{"query": 7, "documents": ["secret"]}\n', r"line 1: expected", id="a number as query"),
        pytest.param(
            b'{"query": "a", "documents": "secret"}\n', r"line 1: expected", id="documents as one text"
        ),
        pytest.param(b"\xff\xfe\n", "cannot be read", id="no UTF-8"),
        pytest.param(b"\x1f\x8bsecret", "cannot be read", id="no gzip"),
    ],
)
def test_a_file_without_pairs_is_refused_and_no_text_of_it_told(
    tiny_dir: Path, tmp_path: Path, content: bytes, said: str
) -> None:
    file = tmp_path / "jobs.jsonl"
    file.write_bytes(content)

    with pytest.raises(ModelNotFound, match=said) as refusal:
        quantize(settings(tiny_dir), file, tmp_path / "to")

    assert "secret" not in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "to").exists()


def test_a_directory_with_files_is_not_written_over(tiny_dir: Path, jobs: Path) -> None:
    with pytest.raises(ModelError, match="expected --to to be a new or an empty directory"):
        quantize(settings(tiny_dir), jobs, tiny_dir)


@pytest.mark.parametrize("fast", [True, False], ids=["in one pass", "of a torch without quantized tensors"])
def test_numbers_are_rounded_and_cut_to_8_bits(fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linears, "_can_quantize", lambda: fast)
    x = torch.tensor([[-1e9, -2.0, 0.0, 0.9, 2.0, 1e9]])

    assert linears.as_uint8(x, 2.0, 10).tolist() == [[0, 9, 10, 10, 11, 255]]
