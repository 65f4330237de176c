"""Texts are read word by word, and by sentencepiece, only where that gives the tokenizers library's own ids."""

import json
import logging
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rerankq_worker.model import words
from rerankq_worker.model.files import find_model
from rerankq_worker.model.pieces import _shortest_tie
from rerankq_worker.model.quickest import PROBES, TextReader
from rerankq_worker.model.tokenizer import PairTokenizer
from tests.model_dirs import CORPUS

MODELS = {"small": None, "bert": "bert", "xlm-r": "jina-like", "added": "added-both"}
LINES = {
    "small": "words are read by the tokenizers library: its normalizer is NFKD",
    "bert": "words are read by the tokenizers library: its model is WordPiece, not Unigram",
    "xlm-r": "words are read by sentencepiece",
    "added": "words are read by the tokenizers library: it has added tokens of its own",
}
TEXTS = st.text(
    st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from("panda .,大熊猫0\n\u0301ー\u200d")),
    max_size=40,
)


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest, shared: Path) -> tuple[str, Path]:
    kept = MODELS[request.param]
    return request.param, shared / "models" / kept if kept else find_model("small").path


@pytest.fixture(scope="module")
def tokenizer(model: tuple[str, Path]) -> PairTokenizer:
    return PairTokenizer.from_model_dir(model[1])


def reader_of(tokenizer: PairTokenizer) -> TextReader:
    assert tokenizer._reader is not None
    return tokenizer._reader


def library_ids(tokenizer: PairTokenizer, text: str) -> list[int]:
    return tokenizer._tokenizer.encode(text, add_special_tokens=False).ids


@pytest.fixture
def changed(tiny_dir: Path, tmp_path: Path) -> Callable[[Callable[[dict[str, Any]], None]], PairTokenizer]:
    """The tiny model, its tokenizer.json changed by a function."""

    def change(how: Callable[[dict[str, Any]], None]) -> PairTokenizer:
        directory = Path(shutil.copytree(tiny_dir, tmp_path / "model"))
        definition = json.loads((directory / "tokenizer.json").read_text())
        how(definition)
        (directory / "tokenizer.json").write_text(json.dumps(definition))
        return PairTokenizer.from_model_dir(directory)

    return change


def test_one_line_of_the_log_says_how_texts_are_read(
    model: tuple[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "rerankq_worker.model.quickest")

    PairTokenizer.from_model_dir(model[1])

    assert caplog.messages == [f"{model[1]}: {LINES[model[0]]}"]


@given(text=TEXTS)
@settings(deadline=None)
def test_any_text_gets_the_ids_of_the_library(tokenizer: PairTokenizer, text: str) -> None:
    assert reader_of(tokenizer)(text).tolist() == library_ids(tokenizer, text)


@pytest.mark.parametrize(
    "text",
    [
        *PROBES,
        "ill.... tea-cloth!.... 哈哈哈哈哈 xxxxxxxx 57268d2ddd62a8",
        "a\u0301 \u0301b\u00a0\u0301c",
        "\u373b\u3748a\u3737 \u35ffa",
        "㏏㉝㋂㋐ \u328f\u325d\u32c2\u32d0",
        "</s><s> <pad>a</s>b ▁</s>",
        "word " * 20_000,
    ],
    ids=range(len(PROBES) + 6),
)
def test_what_libraries_read_in_their_own_ways_is_read_in_one(tokenizer: PairTokenizer, text: str) -> None:
    assert reader_of(tokenizer)(text).tolist() == library_ids(tokenizer, text)


def test_added_tokens_are_found_inside_words(tokenizer: PairTokenizer) -> None:
    text = "x[TABLE]y adenosine, 新能源汽车的[TABLE]"

    assert reader_of(tokenizer)(text).tolist() == library_ids(tokenizer, text)


def test_threads_share_what_is_remembered(tokenizer: PairTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "MOST_HELD", 200)  # so that it begins anew all the time
    texts = [f"{line} {number}" for number in range(40) for line in CORPUS]
    expected = [library_ids(tokenizer, text) for text in texts]

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda text: reader_of(tokenizer)(text).tolist(), texts))

    assert found == expected


def test_a_model_beside_tokenizer_json_is_not_asked(tiny_dir: Path, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(tiny_dir, tmp_path / "model"))
    (directory / "sentencepiece.bpe.model").write_bytes(b"broken")

    tokenizer = PairTokenizer.from_model_dir(directory)

    assert reader_of(tokenizer)("What is a panda?").tolist() == library_ids(tokenizer, "What is a panda?")


def test_without_sentencepiece_the_library_reads_the_words(
    tiny_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "rerankq_worker.model.quickest")
    monkeypatch.setitem(sys.modules, "sentencepiece", None)

    PairTokenizer.from_model_dir(tiny_dir)

    assert "sentencepiece is not installed" in caplog.text


def first_word_otherwise(definition: dict[str, Any]) -> None:
    definition["pre_tokenizer"]["pretokenizers"][1]["prepend_scheme"] = "first"


def no_split_at_blanks(definition: dict[str, Any]) -> None:
    definition["pre_tokenizer"]["pretokenizers"].pop(0)


def replacing(definition: dict[str, Any]) -> None:
    definition["normalizer"] = {"type": "Replace", "pattern": {"String": "a b"}, "content": "c"}


@pytest.mark.parametrize(
    ("how", "why"),
    [
        (first_word_otherwise, "it reads the first word otherwise"),
        (no_split_at_blanks, "it does not split texts at blanks first"),
        (replacing, "its normalizer is Replace"),
    ],
    ids=["first word", "no split", "replace"],
)
def test_what_does_not_read_word_by_word_is_read_by_the_library(
    changed: Callable[..., PairTokenizer],
    caplog: pytest.LogCaptureFixture,
    how: Callable[[dict[str, Any]], None],
    why: str,
) -> None:
    caplog.set_level(logging.INFO, "rerankq_worker.model.quickest")

    tokenizer = changed(how)

    assert tokenizer._reader is None
    assert f"texts are read by the tokenizers library: {why}" in caplog.text


@pytest.mark.parametrize(
    ("scores", "shortest"),
    [
        ({1: -1.0, 2: -1.5}, 3),
        ({1: -1.0, 2: -1.5, 3: -1.6}, 4),
        ({1: -1.0, 2: -9.0}, 4),
        ({1: -9.0, 2: -1.0, 4: -1.0}, 3),
    ],
    ids=["two and one", "three is a piece", "only ones", "a pair and one"],
)
def test_the_shortest_run_that_pieces_of_different_lengths_share(
    scores: dict[int, float], shortest: int
) -> None:
    assert _shortest_tie(scores) == shortest
