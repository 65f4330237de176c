"""What `rerankq-worker` says of models."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rerankq_worker.__main__ import main
from rerankq_worker.model.facts import licence_of
from tests.fake_hub import COMMIT
from tests.model_dirs import build_model_dir

HEAVY = ("torch", "transformers", "sentence_transformers")


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights under the name of a model whose scores were published."""
    return build_model_dir(tmp_path_factory.mktemp("models") / "bge-reranker-v2-m3")


def run_command(
    *arguments: str, hidden: Sequence[str] = (), **environment: str
) -> "subprocess.CompletedProcess[str]":
    """Where `hidden` packages are not installed: None in sys.modules makes an import fail."""
    program = (
        f"import runpy, sys; sys.modules.update(dict.fromkeys({hidden!r})); "
        "runpy.run_module('rerankq_worker', run_name='__main__', alter_sys=True)"
    )
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env={**os.environ, "RERANKQ_DEVICES": "cpu", "RERANKQ_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_weights_called_like_published_ones_are_compared_and_not_convicted(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # In this process, which has torch. A command hides the other devices from its own, here those of all tests.
    monkeypatch.setattr("rerankq_worker.model_commands.verifying.os", SimpleNamespace(environ={}))
    monkeypatch.setenv("RERANKQ_DEVICES", "cpu")
    monkeypatch.setenv("RERANKQ_THREADS", "1")

    code = main(["verify", str(model_dir)])

    told = capsys.readouterr().out
    assert code == 0
    assert "bge-reranker-v2-m3 (sha256:" in told
    assert "WRONG expected" in told
    assert "a fine-tune of that name has scores of its own" in told


def test_a_model_directory_is_pulled_by_saying_where_it_is(model_dir: Path) -> None:
    done = run_command("pull", str(model_dir))

    assert done.returncode == 0
    assert done.stdout.rstrip().endswith(f"is in {model_dir}")


@pytest.mark.parametrize("command", ["pull", "verify"])
def test_a_missing_model_is_refused_in_one_line(command: str, tmp_path: Path) -> None:
    done = run_command(command, str(tmp_path / "no\nwhere"))

    assert done.returncode == os.EX_CONFIG
    assert done.stderr.startswith("rerankq-worker: no model directory at")
    assert len(done.stderr.splitlines()) == 1


@pytest.fixture(scope="module")
def told(model_dir: Path) -> dict[str, Any]:
    """What `info` says of it where nothing could load it."""
    (model_dir / "README.md").write_text("---\nlicense: cc-by-nc-4.0\ntags:\n- rerank\n---\n# A model\n")
    return json.loads(run_command("info", str(model_dir), "--json", hidden=HEAVY).stdout)


def test_what_a_model_is_can_be_told_without_loading_it(told: dict[str, Any], model_dir: Path) -> None:
    assert (told["engine"], told["family"], told["labels"], told["scale"]) == (
        *("packed", "xlm-roberta"),
        *(1, "sigmoid"),
    )
    assert (told["length_tokens"], told["licence"], told["stored_as"].keys()) == (
        8192,
        "cc-by-nc-4.0",
        {"F32"},
    )
    assert told["golden"] == {"pairs": 8, "known_weights": False}
    assert told["files"]["README.md"] == (model_dir / "README.md").stat().st_size


def test_memory_is_told_by_device_and_precision(told: dict[str, Any]) -> None:
    (here,) = told["memory"]
    assert here["device"] == "cpu0"
    needed = here["needed_bytes"]
    assert needed["fp32"] - needed["fp16"] == 2 * told["parameters"]
    assert needed["int8"] < needed["bf16"] == needed["fp16"]


def test_what_no_engine_computes_is_told_with_its_reason(model_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((model_dir / "config.json").read_text())

    done = run_command("info", str(tmp_path))

    assert done.returncode == 0
    assert "engine      none: " in done.stdout
    assert "has no tokenizer.json" in done.stdout


def test_a_licence_is_what_the_card_names(tmp_path: Path) -> None:
    card = tmp_path / "README.md"

    def told(text: str) -> str | None:
        card.write_text(text)
        return licence_of(card)

    assert licence_of(tmp_path / "nowhere.md") is None
    assert told("# license: mit\n") is None
    assert told("---\ntags: [x]\n---\nlicense: mit\n") is None
    assert told("---\nlicense: 'mit'\n---\n") == "mit"
    assert told("---\nlicense: other\nlicense_name: qwen\n---\n") == "qwen"
    assert told("---\nlicense: [\n---\n") is None
    assert told("---\nlicense:\n- mit\n- apache-2.0\n---\n") == "mit, apache-2.0"


@pytest.fixture(scope="module")
def cache(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of the Hub's library: a reranker, one that was cut off, one of pickles, and a model of another kind."""
    cache = tmp_path_factory.mktemp("hub")
    config = json.loads((model_dir / "config.json").read_text())
    files = {file.name: file.read_bytes() for file in model_dir.iterdir()}
    without_weights = {name: data for name, data in files.items() if name != "model.safetensors"}
    put(cache, "some/reranker", files)
    put(cache, "some/cut-off-reranker", without_weights, at_the_hub=[*files])
    put(cache, "some/pickled-reranker", without_weights, at_the_hub=[*without_weights, "pytorch_model.bin"])
    put(
        cache,
        "some/embedder",
        {"config.json": json.dumps(config | {"architectures": ["BertModel"]}).encode()},
    )
    return cache


def put(cache: Path, name: str, files: Mapping[str, bytes], at_the_hub: Sequence[str] = ()) -> None:
    """A snapshot in a cache, and what the Hub's library has written down of the repository."""
    repository = cache / f"models--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / COMMIT
    trees = repository / "trees" / f"{COMMIT}.json"
    for path, data in files.items():
        (snapshot / path).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / path).write_bytes(data)
    for folder in ("refs", "trees"):
        (repository / folder).mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    tree = {path: {"size": 1, "blob_id": "0" * 40} for path in at_the_hub or files}
    trees.write_text(json.dumps({"format_version": 1, "files": tree}))


def listed(cache: Path, *arguments: str) -> str:
    return run_command("list", *arguments, hidden=HEAVY, HF_HUB_CACHE=str(cache)).stdout


def test_the_rerankers_of_the_cache_are_listed_with_what_computes_them(cache: Path) -> None:
    models = {one["model"]: one for one in json.loads(listed(cache, "--json"))}

    assert [*models] == ["small", "some/cut-off-reranker", "some/pickled-reranker", "some/reranker"]
    assert {name: one["complete"] for name, one in models.items()} == {
        "small": True,
        "some/reranker": True,
        "some/cut-off-reranker": False,
        "some/pickled-reranker": True,
    }
    assert {name for name, one in models.items() if one["engine"] == "packed"} == {"small", "some/reranker"}
    assert models["some/reranker"]["revision"] == COMMIT
    assert "pull some/cut-off-reranker" in models["some/cut-off-reranker"]["reason"]


def test_the_list_is_not_cut_in_a_pipe(cache: Path) -> None:
    lines = listed(cache).splitlines()

    (pickled,) = [line for line in lines if line.startswith("some/pickled-reranker")]
    assert len(lines) == 6
    assert len(pickled) > 200
    assert lines[-1].startswith("1 more in the Hub's cache are no rerankers")


def test_without_a_cache_the_model_in_the_box_is_listed(tmp_path: Path) -> None:
    assert [one["model"] for one in json.loads(listed(tmp_path / "nowhere", "--json"))] == ["small"]


@pytest.mark.parametrize(
    ("command", "missing"),
    [
        pytest.param((), "prometheus_client", id="to serve"),
        pytest.param(("pull",), "huggingface_hub", id="to fetch a model"),
    ],
)
def test_a_library_that_is_missing_is_named_with_what_brings_it(
    command: tuple[str, ...], missing: str
) -> None:
    done = run_command(*command, hidden=[missing], RERANKQ_MODEL="org/name")

    assert done.returncode == 78
    assert missing in done.stderr
    assert "`pip install 'rerankq[worker]'` brings" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_doctor_looks_on_where_no_library_fetches_models() -> None:
    done = run_command("doctor", hidden=["huggingface_hub"], RERANKQ_MODEL="org/name")

    assert done.returncode == 2
    assert "broken   model " in done.stdout
    assert "device " in done.stdout
    assert "Traceback" not in done.stderr
