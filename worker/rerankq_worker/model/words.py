"""Token ids of texts, word by word: what a word became is remembered.

A tokenizer that splits text at blanks before all else makes the same tokens of a word wherever it stands, and most
words of a text were read before. Which tokenizers do so their definition tells, and what separates words they are
asked. Knows no library: words and whole texts are read by functions it is given.
"""

import re
import string
import unicodedata
from array import array
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from itertools import chain, takewhile
from typing import Any

import numpy as np

from rerankq_worker.scoring import TokenIds

LONGEST_WORD = 512  # characters; a sentence without blanks comes again where its passage does
MOST_HELD = 2_000_000  # characters, and some for each word: about 12 MB; then it begins anew
HELD_BY_A_WORD = 20

WHITE = "".join(filter(str.isspace, map(chr, range(0x3001))))
HAN = [*range(0x3400, 0x4DC0), *range(0x4E00, 0xA000), *range(0xF900, 0xFB00)]
SOME_HAN = "\u3400\u4db5\u4e00\u4e8c\u5927\u732b\u7af9\u9f8d\u9fa5\uf900\ufa6a"
PAIRS = (
    "ab",
    "th",
    "er",
    "in",
    "\ue000\ue001",
)  # some are one token, or one unknown, where nothing parts them
ONE_SIGN = re.compile(r"\[[^\[\]]+\]")
NORMALIZERS = {
    "BertNormalizer",
    "Lowercase",
    "NFC",
    "NFD",
    "NFKC",
    "NFKD",
    "Nmt",
    "Precompiled",
    "StripAccents",
}
"""Those that change a character, or it and its marks, whatever stands behind a blank."""
SPLIT_AT_BLANKS = {"WhitespaceSplit", "Whitespace", "BertPreTokenizer"}

ReadText = Callable[[str], Sequence[int]]


class Unfit(Exception):
    """A way to read does not give this tokenizer's ids."""


class _BeginsInside(Exception):
    """A word begins with what belongs to the blank before it."""


class WordReader:
    """The ids of texts, as `whole` gives them; safe to share between threads."""

    def __init__(self, word: ReadText, whole: ReadText, glue: str = "", alone: str = "") -> None:
        """
        Args:
            word: reads a text without blanks.
            whole: reads any text.
            glue: blanks in Python's eyes that separate no words.
            alone: characters, as a regular expression's set has them, that are words each, wherever they stand.
        """
        self._known, self._whole, self._glue = _Words(word, alone), whole, glue

    def __call__(self, text: str) -> TokenIds:
        if any(map(text.__contains__, self._glue)):
            return np.array(self._whole(text), dtype=np.int32)
        try:
            return np.frombuffer(b"".join(map(self._known.__getitem__, text.split())), dtype=np.int32)
        except _BeginsInside:
            return np.array(self._whole(text), dtype=np.int32)


class _Words(dict[str, bytes]):
    """Each word's ids, as bytes of int32; read when they are asked for."""

    def __init__(self, read: ReadText, alone: str) -> None:
        super().__init__()
        self._read, self._held = read, 0
        self._parts = re.compile(f"[{alone}]|[^{alone}]+").findall if alone else None

    def __missing__(self, word: str) -> bytes:
        parts = self._parts(word) if self._parts else ()
        ids = b"".join(map(self.__getitem__, parts)) if len(parts) > 1 else self._read_alone(word)
        if len(word) <= LONGEST_WORD:
            self._keep(word, ids)
        return ids

    def _keep(self, word: str, ids: bytes) -> None:
        self._held += len(word) + HELD_BY_A_WORD
        if self._held > MOST_HELD:
            self.clear()
            self._held = 0
        self[word] = ids

    def _read_alone(self, word: str) -> bytes:
        if unusual().match(word):
            raise _BeginsInside
        return array("i", self._read(word)).tobytes()


def word_reader(
    definition: Mapping[str, Any],
    own_tokens: Collection[str],
    word: ReadText,
    whole: ReadText,
    normalize: Callable[[str], str],
) -> WordReader:
    """A reader for the tokenizer of that tokenizer.json, which `whole` reads by.

    Args:
        own_tokens: added tokens that are found in texts.

    Raises:
        Unfit: it reads a word otherwise in another place.
    """
    refuse_unsplit(definition, [*own_tokens, *map(normalize, own_tokens)])
    if not any(whole(pair) != whole(" ".join(pair)) for pair in PAIRS):
        raise Unfit("blanks do not show in its tokens")
    glue = "".join(blank for blank in WHITE if not _separates(blank, whole))
    if not {" ", "\n"}.isdisjoint(glue):
        raise Unfit("blanks are tokens to it")
    alone = _alone(definition, whole, normalize) if not own_tokens else ""
    return WordReader(word, whole, glue, alone)


def refuse_unsplit(definition: Mapping[str, Any], own_tokens: Collection[str]) -> None:
    """Refuse a tokenizer that does not split at blanks first.

    Raises:
        Unfit
    """
    normalizers, splitters = (kinds(definition.get(name)) for name in ("normalizer", "pre_tokenizer"))
    if unknown := {kind for kind, _ in normalizers} - NORMALIZERS:
        raise Unfit(f"its normalizer is {min(unknown)}")
    if not splitters or splitters[0][0] not in SPLIT_AT_BLANKS:
        raise Unfit("it does not split texts at blanks first")
    if any(options.get("prepend_scheme") == "first" for _, options in splitters):
        raise Unfit("it reads the first word otherwise")
    if definition["model"].get("dropout"):
        raise Unfit("it draws lots (dropout)")
    if any(set(WHITE) & set(token) for token in own_tokens):
        raise Unfit("it has added tokens of several words")


def kinds(part: Any) -> list[tuple[str, Mapping[str, Any]]]:
    """The steps of a normalizer or pre-tokenizer: type and options of each."""
    if part is None:
        return []
    if part["type"] == "Sequence":
        return list(
            chain.from_iterable(map(kinds, part.get("normalizers") or part.get("pretokenizers") or []))
        )
    return [(part["type"], part)]


def _separates(blank: str, whole: ReadText) -> bool:
    return all(
        whole(f"{a}{blank}{b}{blank}") == whole(f"{a} {b}") == whole(f"{blank} {a}\n{blank}{b}")
        for a, b in PAIRS
    )


def _alone(definition: Mapping[str, Any], whole: ReadText, normalize: Callable[[str], str]) -> str:
    """Punctuation and Han, where the tokenizer reads each of them as a word: its words tell beginning from inside."""
    marked = definition["model"].get("continuing_subword_prefix") or any(
        kind == "Metaspace" and options.get("prepend_scheme", "always") == "always"
        for kind, options in kinds(definition["pre_tokenizer"])
    )
    if not marked:
        return ""
    normalizers, splitters = (kinds(definition.get(name)) for name in ("normalizer", "pre_tokenizer"))
    first = {kind for kind, _ in takewhile(_parts_signs, splitters)}
    found = ""
    if not first.isdisjoint({"BertPreTokenizer", "Punctuation"}):
        found = "".join(re.escape(mark) for mark in string.punctuation if _is_alone(mark, whole))
    takes_han = "Split" in first or any(kind == "BertNormalizer" for kind, _ in normalizers)
    if takes_han and all(_is_alone(one, whole) for one in SOME_HAN):
        found += _ranges(_staying_han(normalize))
    return found


def _parts_signs(splitter: tuple[str, Mapping[str, Any]]) -> bool:
    """Whether it looks at single characters, not at what stands around them ("U.S.", "c++")."""
    kind, options = splitter
    return kind in {*SPLIT_AT_BLANKS, "Punctuation"} or (
        kind == "Split" and ONE_SIGN.fullmatch(options["pattern"].get("Regex", "")) is not None
    )


def _staying_han(normalize: Callable[[str], str]) -> list[int]:
    """Han that the normalizer leaves Han: some maps lead out of the blocks that a tokenizer splits at."""
    signs = set(map(chr, HAN))
    normal = normalize(" ".join(map(chr, HAN))).split()
    if len(normal) != len(HAN):
        return []
    return [code for code, said in zip(HAN, normal, strict=True) if said in signs]


def _is_alone(sign: str, whole: ReadText) -> bool:
    return whole(f"a{sign}b{sign}{sign}1") == whole(f"a {sign} b {sign} {sign} 1")


@cache
def unusual() -> re.Pattern[str]:
    """Characters that libraries read in company of their neighbours, each in its own way.

    Marks and joiners, letters that compose (jamo, halfwidth kana) or stand for several (ligatures, fractions), what
    controls, what Python does not know.
    """
    usual = [code for code in range(0x10000) if not _is_unusual(code)]
    return re.compile(f"[^{_ranges(usual)}\U0001f300-\U0001f3fa\U0001f400-\U0001faff\U00020000-\U0002ffff]")


def _ranges(codes: Sequence[int]) -> str:
    """Characters in order, as a regular expression's set has them."""
    starts = sorted(set(codes) - {code + 1 for code in codes})
    ends = sorted(set(codes) - {code - 1 for code in codes})
    return "".join(f"{re.escape(chr(a))}-{re.escape(chr(b))}" for a, b in zip(starts, ends, strict=True))


JAMO = ((0x1100, 0x11FF), (0x3130, 0x318F), (0xA960, 0xA97F), (0xD7B0, 0xD7FF), (0xFF9E, 0xFFDC))
SPACING_MARKS = {0xE33, 0xEB3}  # letters to Unicode's categories
META_SPACE = 0x2581  # what stands for a blank in pieces


def _is_unusual(code: int) -> bool:
    kind = unicodedata.category(chr(code))
    return (
        (kind[0] in "MC" and kind != "Co")
        or unicodedata.decomposition(chr(code)).count(" ") > 1
        or code in SPACING_MARKS
        or code == META_SPACE
        or any(first <= code <= last for first, last in JAMO)
    )
