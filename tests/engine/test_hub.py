"""What is fetched from the Hub, and how: asked of a Hub on loopback."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from rerankq_worker.model import hub
from rerankq_worker.model.errors import HubAway, ModelBroken, ModelNotFound
from rerankq_worker.model.files import find_model
from tests.fake_hub import COMMIT, FakeHub, fake_hub

WEIGHTS = "model.safetensors"
NAME = "some/reranker"


@pytest.fixture
def served(tiny_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """The tiny model at a Hub, and an empty cache."""
    files = {file.name: file.read_bytes() for file in tiny_dir.iterdir()}
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 10_000)
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
    monkeypatch.setattr(hub, "RESUMED_BYTES", len(files[WEIGHTS]))
    with fake_hub(NAME, files) as served:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", served.url)
        monkeypatch.setattr(
            "huggingface_hub.file_download.constants.HUGGINGFACE_CO_URL_TEMPLATE",
            served.url + "/{repo_id}/resolve/{revision}/{filename}",
        )
        yield served


def interrupted(served: FakeHub) -> Path:
    """A first try that ends in the middle of the weights, and what it leaves behind."""
    served.cut[WEIGHTS] = len(served.files[WEIGHTS]) // 2
    with pytest.raises(HubAway, match=r"could not be fetched .*pull some/reranker` again"):
        find_model(NAME)
    served.cut.clear()
    served.asked.clear()
    (unfinished,) = Path(hub_cache()).rglob("*.incomplete")
    return unfinished


def hub_cache() -> str:
    from huggingface_hub import constants

    return constants.HF_HUB_CACHE


def test_a_large_file_that_was_cut_off_goes_on_where_it_stopped(served: FakeHub) -> None:
    there_bytes = interrupted(served).stat().st_size

    found = find_model(NAME)

    assert (found.path / WEIGHTS).read_bytes() == served.files[WEIGHTS]
    assert ("GET", WEIGHTS, f"bytes={there_bytes}-") in served.asked
    assert 0 < there_bytes < len(served.files[WEIGHTS])
    assert list(Path(hub_cache()).rglob("*.incomplete")) == []


def test_parts_that_do_not_make_the_file_are_thrown_away(served: FakeHub) -> None:
    interrupted(served).write_bytes(b"of something else")

    with pytest.raises(HubAway, match="sha256"):
        find_model(NAME)

    assert (find_model(NAME).path / WEIGHTS).read_bytes() == served.files[WEIGHTS]


def test_more_than_the_file_has_is_fetched_anew(served: FakeHub) -> None:
    unfinished = interrupted(served)
    unfinished.write_bytes(b"0" * (len(served.files[WEIGHTS]) + 1))

    assert (find_model(NAME).path / WEIGHTS).read_bytes() == served.files[WEIGHTS]


def test_what_was_pulled_needs_no_network_afterwards(
    served: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    pulled = find_model(NAME)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")

    assert find_model(NAME, offline=True) == pulled
    assert find_model(NAME, revision=COMMIT, offline=True) == pulled


def test_what_any_engine_reads_is_pulled_and_what_runs_code_is_not(served: FakeHub) -> None:
    wanted = ("1_LogitScore/config.json", "chat_template.jinja", "merges.txt", "spiece.model", "README.md")
    unwanted = ("modeling.py", "pytorch_model.bin", "onnx/model.onnx")
    served.files |= dict.fromkeys((*wanted, *unwanted), b"{}")

    directory = find_model(NAME).path

    assert [name for name in wanted if not (directory / name).is_file()] == []
    assert [name for name in unwanted if (directory / name).exists()] == []


def test_what_an_older_version_pulled_is_served_offline(served: FakeHub) -> None:
    served.files |= {"README.md": b"", "vocab.txt": b""}
    hub.fetch(NAME, None, offline=False, patterns=("*.json", "*.safetensors"))

    assert find_model(NAME, offline=True).revision == COMMIT


def test_a_chat_template_that_an_older_version_did_not_pull_is_missed(served: FakeHub) -> None:
    """Without it a model would be asked in words that it was not trained on."""
    served.files |= {"chat_template.jinja": b""}
    hub.fetch(NAME, None, offline=False, patterns=("*.json", "*.safetensors"))

    with pytest.raises(ModelNotFound, match="not in the local cache"):
        find_model(NAME, offline=True)


def test_a_revision_that_is_not_there_is_said_so(served: FakeHub) -> None:
    with pytest.raises(ModelNotFound, match="the Hub's some/reranker has no revision v9"):
        find_model(NAME, revision="v9")


@pytest.mark.parametrize("offline", [False, True])
def test_a_repository_of_pickles_is_told_with_the_command_that_converts(
    served: FakeHub, offline: bool
) -> None:
    served.files = {name: data for name, data in served.files.items() if name != WEIGHTS}
    served.files |= {"pytorch_model.bin": b""}
    hub.fetch(NAME, None, offline=False)

    with pytest.raises(
        ModelBroken, match=r"only pickled .* `rerankq model convert some/reranker --to reranker`"
    ):
        find_model(NAME, offline=offline)
