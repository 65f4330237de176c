"""A Unigram tokenizer read by sentencepiece, the library that its vocabulary comes from: several times as fast.

The model is made of tokenizer.json, not read from a `*.model` beside it: so its ids are that file's own, whatever was
done to them (XLM-RoBERTa moves them by one, CamemBERT otherwise), and there is no second file to disagree.
"""

import base64
import re
import struct
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from rerankq_worker.model.words import ReadText, Unfit, kinds, unusual

# sentencepiece_model.proto: the keys of fields of bytes, and whole fields of few
PIECES, TRAINER, NORMALIZER = b"\x0a", b"\x12", b"\x1a"  # ModelProto
PIECE, CHARSMAP = b"\x0a", b"\x12"  # SentencePiece; NormalizerSpec
SCORE = struct.Struct("<cf")  # SentencePiece.score
SCORE_KEY = b"\x15"
NORMAL, UNKNOWN, CONTROL = b"", b"\x18\x02", b"\x18\x03"  # SentencePiece.type
UNIGRAM = b"\x18\x01"  # TrainerSpec.model_type
ONE_BYTE = [bytes([number]) for number in range(0x100)]

WIDE = 0xFEE0  # from ASCII to its full width, which normalizers take for the same
NEARLY = 1e-3  # of a score: floats of 4 bytes, summed over a long word


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
    encode = _encoder(_model_proto(definition, frame))
    is_unusual, is_tied = unusual().search, _ties(dict(definition["model"]["vocab"]))

    def read(word: str) -> Sequence[int]:
        return whole(word) if is_unusual(word) or is_tied(word) else encode(word)

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


def _encoder(proto: bytes) -> ReadText:
    try:
        import sentencepiece  # here, for an engine alone needs no more than its own packages

        processor: Any = sentencepiece.SentencePieceProcessor(model_proto=proto)
    except ImportError as error:
        raise Unfit("sentencepiece is not installed") from error
    except (RuntimeError, ValueError) as error:
        raise Unfit("sentencepiece does not take it") from error
    return processor.encode


def _model_proto(definition: Mapping[str, Any], frame: Collection[str]) -> bytes:
    """The bytes of a ModelProto: the pieces, in order of their ids, and how text is normalized."""
    vocabulary: Sequence[tuple[str, float]] = definition["model"]["vocab"]
    kind_of = dict.fromkeys(frame, CONTROL) | {vocabulary[definition["model"]["unk_id"]][0]: UNKNOWN}
    pieces = [
        _field(
            PIECES, _field(PIECE, piece.encode()) + SCORE.pack(SCORE_KEY, score) + kind_of.get(piece, NORMAL)
        )
        for piece, score in vocabulary
    ]
    charsmap = b"".join(
        base64.b64decode(options["precompiled_charsmap"])
        for _, options in kinds(definition.get("normalizer"))
    )
    return b"".join([*pieces, _field(TRAINER, UNIGRAM), _field(NORMALIZER, _field(CHARSMAP, charsmap))])


def _field(key: bytes, content: bytes) -> bytes:
    """A field of bytes in the wire format of protocol buffers: key, length in groups of seven bits, content."""
    length, groups = len(content), b""
    while length > 0x7F:
        groups += ONE_BYTE[length & 0x7F | 0x80]
        length >>= 7
    return key + groups + ONE_BYTE[length] + content


def _ties(scores: Mapping[str, float]) -> Callable[[str], bool]:
    """Whether a word repeats a character so often that several of its pieces share the run.

    Their orders score the same ("...", "." and ".", "..."); which is found hangs on how a library rounds its sums.
    """
    runs: dict[str, dict[int, float]] = {}
    unknown = min(scores.values()) - 10  # as both libraries have it
    for piece, score in scores.items():
        if piece[1:] and piece[0] == piece[-1] and piece == piece[0] * len(piece):
            runs.setdefault(piece[0], {1: scores.get(piece[0], unknown)})[len(piece)] = score
    shortest = {character: _shortest_tie(lengths) for character, lengths in runs.items()}
    shortest |= {chr(ord(one) + WIDE): length for one, length in shortest.items() if "!" <= one <= "~"}
    run = re.compile(f"([{re.escape(''.join(shortest))}])\\1\\1+") if shortest else re.compile("(?!)")

    def is_tied(word: str) -> bool:
        return any(len(found[0]) >= shortest[found[1]] for found in run.finditer(word))

    return is_tied


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
