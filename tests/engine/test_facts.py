"""What is told of a model without loading it agrees with what loading it would come to."""

import json
import shutil
from pathlib import Path

import pytest

from rerankq_worker.model import adapters
from rerankq_worker.model.facts import facts_of
from tests.st_dirs import BUILDERS

LABELS = {"qwen3": 1, "gemma": 1}


@pytest.mark.parametrize("name", BUILDERS)
def test_a_model_that_is_not_packed_is_told_with_its_engine(name: str, tmp_path: Path) -> None:
    told = facts_of(BUILDERS[name](tmp_path / "model"))

    assert (told.engine, told.reason) == ("sentence-transformers", "")
    assert told.labels == LABELS.get(name, told.labels)
    assert told.scale in ("sigmoid", "identity")
    assert told.parameters > 0


def test_a_language_model_without_a_template_is_told_of(tmp_path: Path) -> None:
    directory = BUILDERS["qwen3"](tmp_path / "model")
    (directory / "chat_template.jinja").unlink(missing_ok=True)
    config = json.loads((directory / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (directory / "tokenizer_config.json").write_text(json.dumps(config))

    assert "without a chat template" in facts_of(directory).reason


def test_a_model_that_gives_vectors_is_no_reranker(tiny_dir: Path, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(tiny_dir, tmp_path / "embedder"))
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(
        json.dumps(config | {"architectures": ["T5EncoderModel"], "model_type": "t5"})
    )

    told = facts_of(directory)

    assert told.engine is None
    assert "T5EncoderModel gives no scores of pairs" in told.reason


def test_an_adapter_that_nobody_has_loaded_is_told_with_its_base(
    tiny_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RERANKQ_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / adapters.CONFIG).write_text(json.dumps({"base_model_name_or_path": str(tiny_dir)}))
    (tmp_path / adapters.WEIGHTS).write_bytes(b"")

    assert f"an adapter (LoRA) of {tiny_dir}, merged when" in facts_of(tmp_path).reason
