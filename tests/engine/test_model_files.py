"""A model that cannot be served is refused in one line, before anything heavy is imported."""

import errno
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from huggingface_hub.errors import HfHubHTTPError
from safetensors.numpy import load_file, save_file

from rerankq_worker.model.family import FAMILIES
from rerankq_worker.model.files import (
    HubAway,
    ModelBroken,
    ModelError,
    ModelNotFound,
    NotPacked,
    choose_engine,
    find_model,
    fingerprint,
    scale_of,
)
from rerankq_worker.model.hub import HUB_ID
from rerankq_worker.model.small import WEIGHTS_SHA256
from tests.conftest import REPOSITORY


@pytest.fixture
def model_dir(tiny_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_dir, tmp_path / "my-reranker"))


def hub_error(status: int) -> HfHubHTTPError:
    error = HfHubHTTPError.__new__(HfHubHTTPError)  # whatever HTTP library it comes from
    error.response = SimpleNamespace(status_code=status)  # type: ignore[assignment]
    return error


def change_config(directory: Path, **changes: Any) -> None:
    file = directory / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def drop_from_config(directory: Path, key: str) -> None:
    file = directory / "config.json"
    file.write_text(
        json.dumps({name: value for name, value in json.loads(file.read_text()).items() if name != key})
    )


def as_integers(directory: Path) -> None:
    weights = directory / "model.safetensors"
    save_file({name: (tensor * 100).astype(np.int8) for name, tensor in load_file(weights).items()}, weights)


def cut_weights(directory: Path) -> None:
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def leave_pickle_only(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")


BREAKAGES = [
    pytest.param(lambda d: (d / "config.json").unlink(), "config.json is missing", id="no config"),
    pytest.param(lambda d: (d / "config.json").write_text("{"), "is not JSON", id="broken config"),
    pytest.param(
        lambda d: (d / "config.json").write_text("[]"),
        r"expected .* a JSON object, got list",
        id="config list",
    ),
    pytest.param(
        lambda d: change_config(d, architectures=["T5ForSequenceClassification"], model_type="t5"),
        r"expected .* to say XLMRobertaForSequenceClassification or .*, got",
        id="wrong architecture",
    ),
    pytest.param(
        lambda d: change_config(d, id2label=dict.fromkeys("012", "a")),
        "1 or 2 labels, got 3",
        id="three labels",
    ),
    pytest.param(leave_pickle_only, "only pickled weights", id="pickled weights"),
    pytest.param(lambda d: (d / "model.safetensors").unlink(), "has no model.safetensors", id="no weights"),
    pytest.param(
        lambda d: change_config(d, quantization_config={"quant_method": "bitsandbytes"}),
        "asks for quantized weights",
        id="quantization",
    ),
    pytest.param(
        lambda d: drop_from_config(d, "max_position_embeddings"),
        "expected max_position_embeddings to be a number of at least 18 in .*, got None",
        id="no positions",
    ),
    pytest.param(
        lambda d: change_config(d, num_hidden_layers="three"),
        "expected num_hidden_layers to be a number",
        id="a size in words",
    ),
    pytest.param(
        lambda d: change_config(d, num_labels=["one"]),
        "cannot be read as a model .TypeError",
        id="a list of labels",
    ),
    pytest.param(
        lambda d: change_config(d, is_decoder=True), "expected is_decoder to be False", id="decoder"
    ),
    pytest.param(lambda d: (d / "config.json").write_bytes(b"\xff\xfe"), "is not JSON", id="config in bytes"),
    pytest.param(
        lambda d: ((d / "config.json").unlink(), (d / "config.json").mkdir()),
        "cannot be read as a model .IsADirectoryError",
        id="config is a directory",
    ),
    pytest.param(as_integers, "holds classifier.dense.bias as I8: quantized", id="weights as integers"),
    pytest.param(cut_weights, "is cut off", id="cut-off weights"),
    pytest.param(
        lambda d: (d / "model.safetensors").write_bytes(b"x" * 40), "is cut off", id="no safetensors"
    ),
    pytest.param(lambda d: (d / "model.safetensors").write_bytes(b""), "is cut off", id="empty weights"),
    pytest.param(lambda d: (d / "tokenizer.json").unlink(), "has no tokenizer.json", id="no tokenizer"),
]


@pytest.mark.parametrize(("breakage", "complaint"), BREAKAGES)
def test_a_broken_model_is_refused_in_one_line(
    model_dir: Path, breakage: Callable[[Path], object], complaint: str
) -> None:
    breakage(model_dir)

    with pytest.raises(ModelBroken, match=complaint) as caught:
        choose_engine(find_model(model_dir).path, "packed")

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"architectures": ["DebertaV2ForSequenceClassification"], "model_type": "deberta-v2"},
        {"is_decoder": True},
    ],
    ids=["another architecture", "computed otherwise"],
)
def test_what_the_packed_engine_cannot_compute_goes_to_the_other_unless_it_was_asked_for(
    model_dir: Path, changes: dict[str, Any]
) -> None:
    change_config(model_dir, **changes)

    assert choose_engine(model_dir, "auto") == "sentence-transformers"
    with pytest.raises(NotPacked, match=r"RERANKQ_ENGINE=packed cannot compute .*; set RERANKQ_ENGINE=auto"):
        choose_engine(model_dir, "packed")


@pytest.mark.parametrize(
    "architectures",
    [
        None,
        ["XLMRobertaForSequenceClassification"] * 2,
        ["XLMRobertaForSequenceClassification", "XLMRobertaModel"],
    ],
    ids=["absent", "twice", "with another"],
)
def test_architectures_absent_or_doubled_leave_a_model_what_it_is(
    model_dir: Path, architectures: list[str] | None
) -> None:
    change_config(model_dir, architectures=architectures)

    assert choose_engine(model_dir, "auto") == "packed"


@pytest.mark.parametrize(
    ("files", "scale"),
    [
        ({}, "sigmoid"),
        (
            {"config.json": {"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"}},
            "identity",
        ),
        (
            {"config.json": {"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}}},
            "identity",
        ),
        (
            {
                "config.json": {
                    "sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}
                },
                "config_sentence_transformers.json": {"activation_fn": "torch.nn.modules.activation.Tanh"},
                "modules.json": {},
            },
            "tanh",
        ),
        ({"config.json": {"sbert_ce_default_activation_function": "somebodys.own.Activation"}}, "sigmoid"),
    ],
    ids=["unsaid", "of old", "in config.json", "saved with modules", "code"],
)
def test_the_scale_is_the_one_that_the_models_files_name(
    model_dir: Path, files: dict[str, dict[str, Any]], scale: str
) -> None:
    for name, said in files.items():
        file = model_dir / name
        file.write_text(json.dumps((json.loads(file.read_text()) if file.is_file() else {}) | said))

    assert scale_of(model_dir) == scale


@pytest.mark.parametrize(
    ("saved_as", "is_loaded"), [("CrossEncoder", True), ("SentenceTransformer", False), (None, False)]
)
def test_a_rerankers_module_that_is_code_of_others_is_refused(
    model_dir: Path, saved_as: str | None, is_loaded: bool
) -> None:
    said = {"model_type": saved_as} if saved_as else {}
    (model_dir / "config_sentence_transformers.json").write_text(json.dumps(said))
    (model_dir / "modules.json").write_text(json.dumps([{"path": "", "type": "acme.Own"}]))

    with pytest.raises(ModelBroken, match=r"acme\.Own") if is_loaded else nullcontext():
        find_model(model_dir)


def test_a_scale_that_is_not_served_is_refused(model_dir: Path) -> None:
    change_config(model_dir, sbert_ce_default_activation_function="torch.nn.modules.activation.ReLU")

    with pytest.raises(
        ModelBroken, match=r"scale of torch.nn.modules.activation.ReLU, expected one of sigmoid"
    ):
        scale_of(model_dir)


def test_a_directory_is_named_after_itself(model_dir: Path) -> None:
    found = find_model(str(model_dir))

    assert (found.path, found.name) == (model_dir, "my-reranker")


def test_a_directory_has_its_fingerprint_as_revision(model_dir: Path) -> None:
    assert find_model(model_dir).revision == fingerprint(model_dir)
    assert fingerprint(model_dir).startswith("sha256:")


def test_other_weights_of_the_same_shape_have_another_fingerprint(model_dir: Path) -> None:
    before = fingerprint(model_dir)
    weights = model_dir / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-4:] = b"\x00\x00\x00\x01"
    weights.write_bytes(content)

    assert fingerprint(model_dir) != before


def test_the_model_in_the_box_has_its_pinned_hash_as_revision() -> None:
    assert find_model("small").revision == f"sha256:{WEIGHTS_SHA256[:12]}"


def test_a_directory_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"no model directory at .*nowhere"):
        find_model(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "justaname", ""])
def test_what_is_neither_a_directory_nor_a_hub_id_never_asks_the_hub(name: str) -> None:
    with pytest.raises(ModelError):
        find_model(name)


def test_a_hub_model_that_is_not_cached_names_both_ways_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))

    with pytest.raises(
        ModelNotFound, match=r"not in the local cache; run `rerankq model pull .*or give a model directory"
    ):
        find_model("BAAI/bge-reranker-v2-m3", offline=True)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        pytest.param(OSError("Network is unreachable"), HubAway, id="network"),
        pytest.param(hub_error(503), HubAway, id="the hub is down"),
        pytest.param(hub_error(429), HubAway, id="too many requests"),
        pytest.param(hub_error(404), ModelNotFound, id="no such commit"),
    ],
)
def test_a_hub_in_trouble_is_told_from_a_model_that_it_does_not_have(
    monkeypatch: pytest.MonkeyPatch, error: Exception, kind: type[ModelNotFound]
) -> None:
    """The one ends a worker with 69 and is tried again, the other with 78 and is not."""

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)

    with pytest.raises(ModelNotFound) as caught:
        find_model("some/reranker")

    assert type(caught.value) is kind


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE, errno.ENOMEM])
def test_a_host_in_trouble_is_not_said_of_the_model(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fail(*_: object, **__: object) -> str:
        raise OSError(number, "in trouble")

    monkeypatch.setattr(Path, "read_text", fail)

    with pytest.raises(OSError, match="in trouble"):
        find_model(model_dir)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_files_that_may_not_be_read_are_said_of_the_model(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """As root nothing is forbidden, so the refusal is made up."""
    for method in ("read_text", "read_bytes", "open"):
        plain = getattr(Path, method)

        def guarded(self: Path, *args: Any, plain: Any = plain, **options: Any) -> Any:
            if self.name == name:
                raise PermissionError(errno.EACCES, "Permission denied", str(self))
            return plain(self, *args, **options)

        monkeypatch.setattr(Path, method, guarded)

    with pytest.raises(ModelBroken, match=f"Permission denied.*{name}"):
        find_model(model_dir)


def test_a_cached_hub_model_is_found_offline_under_its_commit(
    tiny_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--some--reranker"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    shutil.copytree(tiny_dir, repository / "snapshots" / commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))

    found = find_model("some/reranker", offline=True)

    assert (found.name, found.revision) == ("some/reranker", commit)


def test_weights_in_shards_are_found_by_their_index(model_dir: Path) -> None:
    (model_dir / "model.safetensors").rename(model_dir / "model-00001-of-00001.safetensors")
    index = {"weight_map": {"classifier.dense.weight": "model-00001-of-00001.safetensors"}}
    (model_dir / "model.safetensors.index.json").write_text(json.dumps(index))

    assert find_model(model_dir).revision.startswith("sha256:")


@pytest.mark.parametrize("module", ["model.files", "model.tokenizer"])
def test_the_rooms_beside_the_engine_import_no_torch(module: str) -> None:
    program = f"import sys, rerankq_worker.{module}; print([m for m in ('torch', 'transformers') if m in sys.modules])"

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_the_manual_names_sixteen_models_by_their_families_and_engines() -> None:
    text = (REPOSITORY / "docs" / "models.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\S+/\S+)`.*? \| ([\w-]+).*? \| (.*?) \|", text, re.MULTILINE)
    packed = {family.model_type for family in FAMILIES}

    assert len(rows) == 16
    assert [name for name, _, _ in rows if not HUB_ID.fullmatch(name)] == []
    assert [row for row in rows if (row[1] in packed) != (row[2] == "packed")] == []
