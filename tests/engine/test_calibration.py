"""`rerankq model quantize`: a copy whose int8 is calibrated on pairs of the user's own."""

import gzip
import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from rerankq_worker.engine import Engine, calibrating, calibration, linears
from rerankq_worker.model.calibrated import calibration_of
from rerankq_worker.model.errors import ModelBroken, ModelError, ModelNotFound
from rerankq_worker.model.files import CALIBRATION
from rerankq_worker.model_commands.info import print_info
from rerankq_worker.model_commands.quantizing import quantize
from rerankq_worker.settings import WorkerSettings
from tests.model_dirs import CORPUS, build_model_dir

pytestmark = pytest.mark.skipif(not linears.can_compute_int8(), reason="no int8 product here")

JOBS = [
    {"query": CORPUS[n % 6][n:30], "documents": [CORPUS[(n + k) % 6][k * 7 :] for k in range(4)]}
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


def test_a_calibration_anew_tells_what_int8_costs_without_the_one_before(
    calibrated: Path, tiny_dir: Path, jobs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quantize(settings(tiny_dir), jobs, tmp_path / "once")
    once = capsys.readouterr().out.splitlines()[2]

    quantize(settings(calibrated), jobs, tmp_path / "twice")

    assert capsys.readouterr().out.splitlines()[2].partition(";")[0] == once.partition(";")[0]


def spoil(directory: Path, name: str, tensor: Tensor | None) -> None:
    file = directory / CALIBRATION
    found = {each: held for each, held in load_file(file).items() if each != name}
    with safe_open(file, "pt") as kept:
        said = kept.metadata()
    save_file(found if tensor is None else {**found, name: tensor}, file, said)


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        pytest.param("1.shift", None, id="a layer is missing"),
        pytest.param("1.shift", torch.zeros(7), id="a shift too short"),
        pytest.param("1.shift", torch.zeros(32, dtype=torch.float64), id="a shift of another type"),
        pytest.param("1.shift", torch.full((32,), torch.nan), id="a shift that is no number"),
        pytest.param("1.range", torch.tensor([-torch.inf, 1.0]), id="a range without end"),
        pytest.param("1.range", torch.tensor([torch.nan, 1.0]), id="a range of no number"),
        pytest.param("1.range", torch.zeros(2), id="a range of nothing"),
        pytest.param("1.range", torch.ones(1), id="a range of one end"),
        pytest.param("1.divisor", torch.ones(1), id="one divisor for all"),
        pytest.param("1.divisor", torch.zeros(32), id="divisors of zero"),
    ],
)
def test_a_damaged_calibration_is_refused(
    calibrated: Path, tmp_path: Path, name: str, tensor: Tensor | None
) -> None:
    directory = tmp_path / "damaged"
    shutil.copytree(calibrated, directory)
    spoil(directory, name, tensor)

    with pytest.raises(
        ModelBroken, match=r"int8_calibration.* delete it, or run `rerankq model quantize` again"
    ):
        Engine.load(directory, device="cpu", dtype="int8")


def test_a_calibration_that_is_cut_off_is_refused(calibrated: Path, tmp_path: Path) -> None:
    directory = tmp_path / "cut"
    shutil.copytree(calibrated, directory)
    (directory / CALIBRATION).write_bytes((calibrated / CALIBRATION).read_bytes()[:-9])

    with pytest.raises(ModelBroken, match=r"cannot be read; delete it"):
        Engine.load(directory, device="cpu", dtype="int8")


def test_what_a_calibration_says_of_itself_is_told_in_one_line(tiny_dir: Path, tmp_path: Path) -> None:
    save_file({"0.shift": torch.zeros(1)}, tmp_path / CALIBRATION, {"model": "a\x1b[31m\nb"})

    assert calibration_of(tmp_path) == {"model": "a[31mb"}


def test_a_gzipped_file_with_documents_as_objects_is_read(tiny_dir: Path, tmp_path: Path) -> None:
    jobs = [{**job, "documents": [{"id": "a", "text": text} for text in job["documents"]]} for job in JOBS]
    file = tmp_path / "jobs.jsonl.gz"
    file.write_bytes(gzip.compress("\n".join(map(json.dumps, jobs)).encode()))

    assert quantize(settings(tiny_dir), file, tmp_path / "to") == 0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        pytest.param(b"", "expected --pairs to hold 20 different pairs or more", id="empty"),
        pytest.param(
            b'{"query": "secret", "documents": ["secret"]}\n' * 30, "different pairs .* has 1", id="one pair"
        ),
        pytest.param(b"secret\n", r"line 1: expected {\"query\"", id="no JSON"),
        pytest.param(b'{"query": "secret"}\n', r"line 1: expected {\"query\"", id="no documents"),
        pytest.param(b'{"query": 7, "documents": ["secret"]}\n', r"line 1: expected", id="a number as query"),
        pytest.param(
            b'{"query": "a", "documents": "secret"}\n', r"line 1: expected", id="documents as one text"
        ),
        pytest.param(
            b'{"query": "secret \\ud800", "documents": []}\n', r"line 1: expected", id="half a character"
        ),
        pytest.param(b"\xff\xfe\n", "cannot be read", id="no UTF-8"),
        pytest.param(b"\x1f\x8bsecret", "cannot be read", id="no gzip"),
        pytest.param(
            gzip.compress(b"secret", mtime=0)[:10] + b"\xff" * 9, "cannot be read", id="a damaged gzip"
        ),
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


def test_a_link_to_where_nothing_is_yet_is_followed(tiny_dir: Path, jobs: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "there")

    quantize(settings(tiny_dir), jobs, tmp_path / "link")

    assert (tmp_path / "there" / "config.json").is_file()


def test_a_copy_is_not_put_into_the_model_that_it_is_of(tiny_dir: Path, jobs: Path, tmp_path: Path) -> None:
    directory = shutil.copytree(tiny_dir, tmp_path / "model")

    with pytest.raises(ModelNotFound, match="outside of the model's own directory"):
        quantize(settings(directory), jobs, directory / "int8")

    assert sorted(file.name for file in directory.iterdir()) == sorted(f.name for f in tiny_dir.iterdir())


def test_a_model_that_the_packed_engine_does_not_compute_is_refused(
    tiny_dir: Path, jobs: Path, tmp_path: Path
) -> None:
    other = settings(tiny_dir).model_copy(update={"engine": "sentence-transformers"})

    with pytest.raises(
        ModelNotFound, match=r"has no int8: sentence-transformers computes it.*; serve it as it is"
    ):
        quantize(other, jobs, tmp_path / "to")


def test_nothing_is_left_when_it_is_told_to_stop(
    tiny_dir: Path, jobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        assert list(tmp_path.iterdir())
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(calibrating, "calibrate", stop)

    with pytest.raises(KeyboardInterrupt):
        quantize(settings(tiny_dir), jobs, tmp_path / "to")

    assert not list(tmp_path.iterdir())


def test_rows_are_kept_from_every_batch_up_to_a_number() -> None:
    recorder = calibration.Recorder(batches=1024)
    linear = recorder(torch.ones(1, 4), torch.zeros(1), False)

    for _ in range(1024):
        linear(torch.ones(50, 4))

    (seen,) = recorder._seen
    assert sum(map(len, seen.rows)) == calibration.SAMPLED_ROWS + 1024


def test_a_disk_that_is_full_is_told_in_one_line(
    tiny_dir: Path, jobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise SafetensorError("No space left on device (os error 28)")

    monkeypatch.setattr(calibration, "save_file", full)

    with pytest.raises(ModelNotFound, match=r"cannot be written \(No space left .*name another directory"):
        quantize(settings(tiny_dir), jobs, tmp_path / "to")

    assert not list(tmp_path.iterdir())


def test_a_directory_with_files_is_not_written_over(tiny_dir: Path, jobs: Path) -> None:
    with pytest.raises(ModelError, match="expected --to to be a new or an empty directory"):
        quantize(settings(tiny_dir), jobs, tiny_dir)


@pytest.mark.parametrize("fast", [True, False], ids=["in one pass", "of a torch without quantized tensors"])
def test_numbers_are_rounded_and_cut_to_8_bits(fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linears, "_can_quantize", lambda: fast)
    x = torch.tensor([[-1e9, -2.0, 0.0, 0.9, 2.0, 1e9]])

    assert linears.as_uint8(x, 2.0, 10).tolist() == [[0, 9, 10, 10, 11, 255]]
