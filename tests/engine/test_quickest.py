"""Texts are read word by word, and by sentencepiece, only where that gives the tokenizers library's own ids."""

import base64
import json
import logging
import shutil
import struct
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
from rerankq_worker.model.pieces import _shortest_tie, _ties
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


def a_token_of_two_words(definition: dict[str, Any]) -> None:
    definition["normalizer"] = replaced_by({"丁": " "})
    definition["model"]["vocab"][-2][0] = "new丁york"
    new = {
        "content": "new丁york",
        "id": len(definition["model"]["vocab"]) - 2,
        "normalized": True,
        "special": False,
    }
    definition["added_tokens"].append({**definition["added_tokens"][0], **new})


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
        (a_token_of_two_words, "it has added tokens of several words"),
    ],
    ids=["first word", "no split", "replace", "token of two words"],
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


def replaced_by(replaced: dict[str, str]) -> dict[str, Any]:
    """A normalizer that replaces characters: a double array of 256 units a node, and the texts."""
    units, texts = [0] * 0x100, b""
    waiting = [(0, 0, {key.encode(): text for key, text in replaced.items()})]
    while waiting:
        place, label, below = waiting.pop()
        base, is_key = len(units), b"" in below
        units += [0] * 0x100
        units[place] = label | is_key << 8 | (place ^ base) << 10
        if is_key:
            units[base] = 0x80000000 | len(texts)
            texts += below[b""].encode() + b"\0"
        for first in sorted({key[0] for key in below if key}):
            rest = {key[1:]: text for key, text in below.items() if key[:1] == bytes([first])}
            waiting.append((base ^ first, first, rest))
    charsmap = struct.pack(f"<{len(units) + 1}I", 4 * len(units), *units) + texts
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(charsmap).decode()}


def two_characters_as_one(definition: dict[str, Any]) -> None:
    definition["normalizer"] = replaced_by({"qz": "y", "é": "e"})


def few_digits(definition: dict[str, Any]) -> None:
    definition["model"]["vocab"] = [[piece, round(score, 1)] for piece, score in definition["model"]["vocab"]]


def lowest_is_of_the_frame(definition: dict[str, Any]) -> None:
    definition["model"]["vocab"][1][1] = -100.0


def unknown_in_texts(definition: dict[str, Any]) -> None:
    definition["model"]["unk_id"] = 9


@pytest.mark.parametrize(
    ("how", "why"),
    [
        (two_characters_as_one, "it replaces several characters at once"),
        (few_digits, "its scores have few digits"),
        (lowest_is_of_the_frame, "its lowest score is of a piece that is in no text"),
        (unknown_in_texts, "texts can hold its unknown piece"),
    ],
    ids=["two as one", "few digits", "lowest of the frame", "unknown in texts"],
)
def test_what_sentencepiece_reads_otherwise_is_read_by_the_library(
    changed: Callable[..., PairTokenizer],
    caplog: pytest.LogCaptureFixture,
    how: Callable[[dict[str, Any]], None],
    why: str,
) -> None:
    caplog.set_level(logging.INFO, "rerankq_worker.model.quickest")

    changed(how)

    assert f"words are read by the tokenizers library: {why}" in caplog.text


def blank_inside_a_piece(definition: dict[str, Any]) -> None:
    definition["normalizer"] = replaced_by({"丁": " ", "七": "▁", "é": "e"})
    definition["model"]["vocab"][-2][0] = "a▁b"


def abbreviations(definition: dict[str, Any]) -> None:
    split = {
        "type": "Split",
        "pattern": {"Regex": r"(?:[A-Z]\.){2,}|\w+|[^\w]"},
        "behavior": "Isolated",
        "invert": False,
    }
    definition["pre_tokenizer"]["pretokenizers"].insert(1, split)


def no_mark_of_a_beginning(definition: dict[str, Any]) -> None:
    definition["normalizer"] = replaced_by({"\x1c": ""})
    definition["pre_tokenizer"]["pretokenizers"].pop()


@pytest.mark.parametrize(
    ("how", "text", "way"),
    [
        (blank_inside_a_piece, "xa丁b a七b é", "words are read by sentencepiece"),
        (abbreviations, "the U.S. is in N.A. a.b", "words are read by the tokenizers library"),
        (no_mark_of_a_beginning, "\ue000\x1c\ue001 a\x1cb", "words are read by the tokenizers library"),
    ],
    ids=["blank inside", "abbreviations", "no mark"],
)
def test_what_hangs_on_its_neighbours_gets_the_ids_of_the_library(
    changed: Callable[..., PairTokenizer],
    caplog: pytest.LogCaptureFixture,
    how: Callable[[dict[str, Any]], None],
    text: str,
    way: str,
) -> None:
    caplog.set_level(logging.INFO, "rerankq_worker.model.quickest")

    tokenizer = changed(how)

    assert way in caplog.text
    assert reader_of(tokenizer)(text).tolist() == library_ids(tokenizer, text)


@pytest.mark.parametrize(
    ("word", "is_tied"),
    [
        ("aiaiaiaia", True),
        ("xmamamax", True),
        ("talktalktalk", True),
        ("-=" * 500, True),
        ("a․．․.b", True),
        ("Mississippi", True),
        ("characteristically", False),
        ("2000", False),
        ("abcd" * 2, False),
    ],
    ids=["ai", "inside", "talk", "long", "other forms of a point", "ississi", "plain", "zeros", "twice"],
)
def test_words_whose_pieces_could_change_places_are_known(word: str, is_tied: bool) -> None:
    looks_tied = _ties({".": -5.0, "..": -7.0, "a": -3.0}, {"․": ".", "．": ".", "é": "e"})

    assert looks_tied(word) == is_tied


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
