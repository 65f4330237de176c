"""How a pair is framed: which special tokens stand around query and document, and which segment each part is of.

Read as transformers, and so CrossEncoder, reads it: a class that it builds anew has a frame of its own, whatever
tokenizer.json says; else its `post_processor` says it. Knows JSON; no ids but those that files name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rerankq_worker.model.family import Family
from rerankq_worker.model.files import ModelBroken, read_config, read_if_there

READ_AS_IT_IS = ("PreTrainedTokenizerFast", "TokenizersBackend")
"""Classes for which transformers takes tokenizer.json whole; for others it builds the tokenizer anew."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A token of a frame."""

    content: str
    segment: int = 0
    index: int | None = None
    """Its id, where the frame itself names it."""


@dataclass(frozen=True, slots=True)
class Frame:
    """What stands before the query, between query and document, and behind the document."""

    before: Sequence[Mark]
    between: Sequence[Mark]
    behind: Sequence[Mark]
    document_segment: int = 0

    @property
    def marks(self) -> list[Mark]:
        return [*self.before, *self.between, *self.behind]


BY_CLASS: Mapping[str, tuple[Sequence[str], Sequence[str], Sequence[str], int]] = {
    "BertTokenizer": (["cls_token"], ["sep_token"], ["sep_token"], 1),
    "ElectraTokenizer": (["cls_token"], ["sep_token"], ["sep_token"], 1),
    "DistilBertTokenizer": (["cls_token"], ["sep_token"], ["sep_token"], 0),
    "RobertaTokenizer": (["cls_token"], ["sep_token", "sep_token"], ["sep_token"], 0),
    "CamembertTokenizer": (["bos_token"], ["eos_token", "eos_token"], ["eos_token"], 0),
    "XLMRobertaTokenizer": (["bos_token"], ["eos_token", "eos_token"], ["eos_token"], 0),
}
"""The roles before, between and behind, and the segment of the document, in classes that are built anew."""


def tokenizer_class(directory: Path, family: Family) -> str:
    """The class by which transformers reads the directory's tokenizer, without the `Fast` of its older name."""
    if family.tokenizer in READ_AS_IT_IS:  # whatever the files say
        return family.tokenizer
    named = read_if_there(directory / "tokenizer_config.json").get("tokenizer_class")
    name = str(named or read_config(directory).get("tokenizer_class") or family.tokenizer)
    return name if name in READ_AS_IT_IS else name.removesuffix("Fast")


def frame_of(
    directory: Path, definition: Mapping[str, Any], family: Family, roles: Mapping[str, str]
) -> Frame:
    """The frame that a directory, whose tokenizer.json holds `definition`, puts around a pair.

    Raises:
        ModelBroken: it is none that a row could hold.
    """
    name = tokenizer_class(directory, family)
    built_anew = name in BY_CLASS
    frame = (
        _of_class(name, roles) if built_anew else _of_template(directory, definition.get("post_processor"))
    )
    return frame if _has_segments(directory, family, name) else _in_one_segment(frame)


def _has_segments(directory: Path, family: Family, name: str) -> bool:
    """Whether the model is told segments: it knows several, and the tokenizer gives them."""
    default = ["token_type_ids"] if BY_CLASS.get(name, ([], [], [], 0))[3] else []
    given = read_if_there(directory / "tokenizer_config.json").get("model_input_names", default)
    known = read_config(directory).get("type_vocab_size", family.segments)
    return "token_type_ids" in given and min(family.segments, known) > 1


def _of_class(name: str, roles: Mapping[str, str]) -> Frame:
    before, between, behind, segment = BY_CLASS[name]
    return Frame(
        [Mark(roles[role]) for role in before],
        [Mark(roles[role]) for role in between],
        [Mark(roles[role], segment) for role in behind],
        segment,
    )


def _of_template(directory: Path, processor: Any) -> Frame:
    match processor:
        case {"type": "Sequence", "processors": [*several]}:
            framing = [one for one in several if one.get("type") != "ByteLevel"]
            return _of_template(directory, framing[0] if len(framing) == 1 else None)
        case {"type": "BertProcessing", "cls": [cls, cls_id], "sep": [sep, sep_id]}:
            return Frame([Mark(cls, 0, cls_id)], [Mark(sep, 0, sep_id)], [Mark(sep, 1, sep_id)], 1)
        case {"type": "RobertaProcessing", "cls": [cls, cls_id], "sep": [sep, sep_id]}:
            end = Mark(sep, 0, sep_id)
            return Frame([Mark(cls, 0, cls_id)], [end, end], [end])
        case {"type": "TemplateProcessing", "pair": [*pair], "special_tokens": {**known}}:
            return _of_pair(directory, pair, known)
        case None | {"type": "ByteLevel"}:
            return Frame([], [], [], 1)
        case _:
            raise ModelBroken(f"{directory}: tokenizer.json frames a pair by an unknown post_processor")


def _of_pair(directory: Path, pair: Sequence[Any], known: Mapping[str, Any]) -> Frame:
    """A template's tokens, and the two texts between them: the query's first, each once."""
    texts = [piece["Sequence"] for piece in pair if "Sequence" in piece]
    if [text["id"] for text in texts] != ["A", "B"] or texts[0]["type_id"] != 0:
        raise ModelBroken(f"{directory}: tokenizer.json frames a pair otherwise than query, then document")
    parts: list[list[Mark]] = [[]]
    for piece in pair:
        if "Sequence" in piece:
            parts.append([])
        else:
            parts[-1] += _marks(known[piece["SpecialToken"]["id"]], piece["SpecialToken"]["type_id"])
    before, between, behind = parts
    frame = Frame(before, between, behind, texts[1]["type_id"])
    if not {0, 1}.issuperset({frame.document_segment, *(mark.segment for mark in frame.marks)}):
        raise ModelBroken(f"{directory}: tokenizer.json has a pair of more than two segments")
    return frame


def _marks(token: Mapping[str, Any], segment: int) -> list[Mark]:
    """A template's token, which may stand for several."""
    named = zip(token["tokens"], token["ids"], strict=True)
    return [Mark(content, segment, index) for content, index in named]


def _in_one_segment(frame: Frame) -> Frame:
    before, between, behind = (
        [replace(mark, segment=0) for mark in marks] for marks in (frame.before, frame.between, frame.behind)
    )
    return Frame(before, between, behind)
