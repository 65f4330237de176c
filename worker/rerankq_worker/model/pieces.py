"""A Unigram tokenizer read by sentencepiece, the library that its vocabulary comes from: several times as fast.

The model is made of tokenizer.json, not read from a `*.model` beside it: so its ids are that file's own, whatever was
done to them (XLM-RoBERTa moves them by one, CamemBERT otherwise), and there is no second file to disagree.
"""

import base64
import re
import struct
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import compress
from typing import Any

import numpy as np
import numpy.typing as npt

from rerankq_worker.model.words import META_SPACE, ReadText, Unfit, kinds, unusual

# sentencepiece_model.proto: the keys of fields of bytes, and whole fields of few
PIECES, TRAINER, NORMALIZER = b"\x0a", b"\x12", b"\x1a"  # ModelProto
PIECE, CHARSMAP = b"\x0a", b"\x12"  # SentencePiece; NormalizerSpec
SCORE = struct.Struct("<cf")  # SentencePiece.score
SCORE_KEY = b"\x15"
NORMAL, UNKNOWN, CONTROL = b"", b"\x18\x02", b"\x18\x03"  # SentencePiece.type
UNIGRAM = b"\x18\x01"  # TrainerSpec.model_type
Units = npt.NDArray[np.int64]
ONE_BYTE = [bytes([number]) for number in range(0x100)]

NEARLY = 1e-3  # of a score: floats of 4 bytes, summed over a long word
COARSE_DIGITS = 4  # scores of no more, behind the point, add up to the same too often
# "mamam": two and a half times, and not one character alone
REPEATED = re.compile(r"(.)(\1{0,15}(?!\1).{1,15}?)\1\2\1")
# characters; longer words are paragraphs without blanks, unless their beginning has few kinds of characters
SHORT_WORD = 64
FEW_KINDS = 16


def piece_reader(
    definition: Mapping[str, Any], frame: Collection[str], own_tokens: Collection[str], whole: ReadText
) -> ReadText:
    """Reads words by sentencepiece, but for those that it could read otherwise than the tokenizers library.

    Args:
        definition: what tokenizer.json says.
        frame: pieces that no text may produce.
        own_tokens: added tokens that are found in texts.
        whole: reads any text, as the tokenizers library does.

    Raises:
        Unfit: sentencepiece has no such tokenizer, or is not installed.
    """
    _refuse_unlike(definition, own_tokens)
    charsmap = _charsmap(definition)
    replaced = _replaced(charsmap)
    is_unusual, becomes_blank = unusual().search, _becomes_blank(replaced)
    is_tied = _ties(dict(definition["model"]["vocab"]), replaced)
    _refuse_scores(definition, frame)
    encode = _encoder(_model_proto(definition, frame, charsmap))

    def read(word: str) -> Sequence[int]:
        return whole(word) if is_unusual(word) or becomes_blank(word) or is_tied(word) else encode(word)

    return read


def _refuse_unlike(definition: Mapping[str, Any], own_tokens: Collection[str]) -> None:
    model = definition["model"]
    normalizers, splitters = (
        [kind for kind, _ in kinds(definition.get(name))] for name in ("normalizer", "pre_tokenizer")
    )
    if model["type"] != "Unigram":
        raise Unfit(f"its model is {model['type']}, not Unigram")
    if model.get("byte_fallback") or model.get("unk_id") is None:
        raise Unfit("it has no unknown piece")
    if normalizers not in ([], ["Precompiled"]):
        raise Unfit(f"its normalizer is {normalizers[0]}")
    if splitters != ["WhitespaceSplit", "Metaspace"]:
        raise Unfit(f"it splits words by {splitters[1:]}")
    if own_tokens:
        raise Unfit("it has added tokens of its own")


def _refuse_scores(definition: Mapping[str, Any], frame: Collection[str]) -> None:
    model = definition["model"]
    if model["vocab"][model["unk_id"]][0] not in frame:
        raise Unfit("texts can hold its unknown piece")
    scores = [score for piece, score in model["vocab"] if piece not in frame]
    if all(round(score, COARSE_DIGITS) == score for score in scores):
        raise Unfit("its scores have few digits")
    if min(scores) > min(score for _, score in model["vocab"]):  # what an unknown character costs hangs on it
        raise Unfit("its lowest score is of a piece that is in no text")


def _encoder(proto: bytes) -> ReadText:
    try:
        import sentencepiece  # here, for an engine alone needs no more than its own packages

        processor: Any = sentencepiece.SentencePieceProcessor(model_proto=proto)
    except ImportError as error:
        raise Unfit("sentencepiece is not installed") from error
    except (RuntimeError, ValueError) as error:
        raise Unfit("sentencepiece does not take it") from error
    return processor.encode


def _model_proto(definition: Mapping[str, Any], frame: Collection[str], charsmap: bytes) -> bytes:
    """The bytes of a ModelProto: the pieces, in order of their ids, and how text is normalized."""
    vocabulary: Sequence[tuple[str, float]] = definition["model"]["vocab"]
    kind_of = dict.fromkeys(frame, CONTROL) | {vocabulary[definition["model"]["unk_id"]][0]: UNKNOWN}
    pieces = [
        _field(
            PIECES, _field(PIECE, piece.encode()) + SCORE.pack(SCORE_KEY, score) + kind_of.get(piece, NORMAL)
        )
        for piece, score in vocabulary
    ]
    return b"".join([*pieces, _field(TRAINER, UNIGRAM), _field(NORMALIZER, _field(CHARSMAP, charsmap))])


def _field(key: bytes, content: bytes) -> bytes:
    """A field of bytes in the wire format of protocol buffers: key, length in groups of seven bits, content."""
    length, groups = len(content), b""
    while length > 0x7F:
        groups += ONE_BYTE[length & 0x7F | 0x80]
        length >>= 7
    return key + groups + ONE_BYTE[length] + content


def _charsmap(definition: Mapping[str, Any]) -> bytes:
    return b"".join(
        base64.b64decode(options["precompiled_charsmap"])
        for _, options in kinds(definition.get("normalizer"))
    )


def _replaced(charsmap: bytes) -> dict[str, str]:
    """What a map of characters replaces, and by what, but for the unusual ones.

    It is a trie of UTF-8, as darts-clone lays it out, and the texts that its values point to.

    Raises:
        Unfit: it is broken, or replaces several characters at once, as sentencepiece alone does.
    """
    if not charsmap:
        return {}
    try:
        (size,) = struct.unpack_from("<I", charsmap)
        units = np.frombuffer(charsmap, dtype="<u4", count=size // 4, offset=4).astype(np.int64)
        texts = charsmap[4 + size :]
        replaced = {
            key.decode(): texts[place : texts.index(b"\0", place)].decode() for key, place in _keys(units)
        }
    except (ValueError, IndexError, struct.error) as error:
        raise Unfit("its map of characters is broken") from error
    if any(len(key) > 1 for key in replaced):
        raise Unfit("it replaces several characters at once")
    return replaced


def _keys(units: Units) -> Iterator[tuple[bytes, int]]:
    """The keys of a double array that hold no unusual character, and the value of each."""
    labels, keys, places, seen = np.arange(1, 0x100), [b""], np.zeros(1, dtype=np.int64), 0
    while keys:
        nodes = units[places]
        bases = places ^ ((nodes >> 10) << ((nodes & 0x200) >> 6))
        for index in np.flatnonzero(nodes >> 8 & 1) if seen else ():
            yield keys[index], int(units[bases[index]] & 0x7FFFFFFF)
        below = bases[:, None] ^ labels
        rows, columns = np.nonzero(units[below % len(units)] & 0x800000FF == labels)
        longer = [keys[row] + ONE_BYTE[column + 1] for row, column in zip(rows, columns, strict=True)]
        usual = [not unusual().search(key.decode(errors="ignore")) for key in longer]
        keys, places = list(compress(longer, usual)), below[rows, columns][usual]
        seen += len(keys)
        if seen > len(units):
            raise ValueError("expected a tree")


def _becomes_blank(replaced: Mapping[str, str]) -> Callable[[str], Any]:
    """Whether a word has a character that is a blank, or what stands for it, once replaced."""
    blanks = [key for key, text in replaced.items() if " " in text or chr(META_SPACE) in text]
    return _one_of(blanks).search


def _one_of(characters: Iterable[str]) -> re.Pattern[str]:
    members = re.escape("".join(characters))
    return re.compile(f"[{members}]" if members else "(?!)")


def _ties(scores: Mapping[str, float], replaced: Mapping[str, str]) -> Callable[[str], bool]:
    """Whether a word repeats itself so often that pieces could change places in it.

    Their orders score the same ("...", "." and ".", "..."; "mama", "ma"); which is found hangs on how a library rounds
    its sums. Single characters are sent where pieces of several lengths share the run, for "2000" is common.
    """
    runs: dict[str, dict[int, float]] = {}
    unknown = min(scores.values()) - 10  # as both libraries have it
    for piece, score in scores.items():
        if piece[1:] and piece[0] == piece[-1] and piece == piece[0] * len(piece):
            runs.setdefault(piece[0], {1: scores.get(piece[0], unknown)})[len(piece)] = score
    shortest = {character: _shortest_tie(lengths) for character, lengths in runs.items()}
    same = {key: text for key, text in replaced.items() if text in shortest}
    other_forms = _one_of(same)
    run = re.compile(f"([{re.escape(''.join(shortest))}])\\1\\1+") if shortest else re.compile("(?!)")

    def is_tied(word: str) -> bool:
        text = other_forms.sub(lambda found: same[found[0]], word)
        return _repeats(text) or any(len(found[0]) >= shortest[found[1]] for found in run.finditer(text))

    return is_tied


def _repeats(word: str) -> bool:
    several = len(set(word[:SHORT_WORD]))
    return (
        len(word) - several > 2
        and (len(word) <= SHORT_WORD or several <= FEW_KINDS)
        and REPEATED.search(word) is not None
    )


def _shortest_tie(scores: Mapping[int, float]) -> int:
    """The shortest run that pieces of different lengths share, or nearly so.

    Args:
        scores: of the pieces that are runs, by their lengths.
    """
    best: list[tuple[float, frozenset[int]]] = [(0.0, frozenset())]
    for length in range(1, 2 * max(scores)):
        ways = [
            (best[length - last][0] + score, best[length - last][1] | {last})
            for last, score in scores.items()
            if last <= length
        ]
        best.append(max(ways, key=lambda way: way[0]))
        if any(len(lengths) > 1 for score, lengths in ways if score >= best[-1][0] - NEARLY):
            return length
    return 2 * max(scores)
