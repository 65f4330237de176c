"""A model's chat template, rendered once: what it puts around a query, a document and an instruction.

Its own parts are given the tokenizer's secret names before texts are put in. Knows CrossEncoder's first module.
"""

import logging
import re
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from rerankq_worker.engine.unforgeable_tokenizer import settling_tokens, under_secret_names
from rerankq_worker.model.files import ModelBroken

log = logging.getLogger(__name__)

MARKUP = re.compile(r"[<\[].*[>\]]")
"""How tokens look that a template sets, and that nobody writes as a word."""
SLOTS = ("query", "document", "system")
NOT_OF_THE_TEMPLATE = ("restore_suffix", "padding", "truncation", "max_length", "return_tensors")


@dataclass(frozen=True, slots=True)
class Template:
    """A model's chat template, its own parts under the tokenizer's secret names."""

    tokenizer: Tokenizer
    parts: Mapping[tuple[bool, ...], Sequence[str]]
    """What it renders where query, document and instruction are there or not: its own parts, and between them the
    name of the slot that is filled."""
    trims: Collection[str]
    """The slots whose texts lose their blanks at both ends."""
    settling_tokens: int

    @classmethod
    def of(cls, directory: Path, first: Any) -> "Template":
        """Of CrossEncoder's first module.

        Raises:
            ModelBroken: it has no place for a query and one document.
        """
        tokenizer = first.tokenizer
        marks = {slot: f"{slot}{secrets.token_hex(16)}" for slot in SLOTS}
        parts = _rendered(directory, first, marks)
        own = "".join(part for found in parts.values() for part in found if part not in SLOTS)
        added: dict[str, Any] = {token.content: token for token in tokenizer.added_tokens_decoder.values()}
        roles = {token for token in tokenizer.special_tokens_map.values() if isinstance(token, str)}
        set_here = {name for name in added if name in own and MARKUP.fullmatch(name)}
        names = {name for name, token in added.items() if token.special} | roles | set_here
        unforgeable, secrets_of = under_secret_names(tokenizer, names)
        own_names = re.compile("|".join(map(re.escape, sorted(secrets_of, key=len, reverse=True))) or r"(?!)")
        return cls(
            unforgeable,
            {
                key: [
                    part if part in SLOTS else own_names.sub(lambda found: secrets_of[found[0]], part)
                    for part in found
                ]
                for key, found in parts.items()
            },
            _trimmed(first, marks),
            settling_tokens(tokenizer),
        )

    def takes_instructions(self) -> bool:
        """Whether a system message reaches what it renders."""
        return (True, True, True) in self.parts

    def around(self, query: str, instruction: str, *, has_document: bool) -> tuple[str, str]:
        """What stands before and behind a document."""
        given = {"query": self.trimmed("query", query), "system": self.trimmed("system", instruction)}
        key = bool(given["query"]), has_document, bool(given["system"])
        parts = self.parts.get(key) or self.parts[True, True, key[2]]
        middle = parts.index("document") if "document" in parts else len(parts)
        before, behind = parts[:middle], parts[middle + 1 :]
        return "".join(given.get(part, part) for part in before), "".join(
            given.get(part, part) for part in behind
        )

    def trimmed(self, slot: str, text: str) -> str:
        """The text as it is put in."""
        return text.strip() if slot in self.trims else text


def _rendered(directory: Path, first: Any, marks: Mapping[str, str]) -> dict[tuple[bool, ...], list[str]]:
    """The parts of what the template renders, by which of the slots are filled; without those that it refuses."""
    cut = re.compile(f"({'|'.join(marks.values())})")
    slot_of = {mark: slot for slot, mark in marks.items()}
    found: dict[tuple[bool, ...], list[str]] = {}
    for key in product((True, False), repeat=len(SLOTS)):
        texts = [mark if there else "" for mark, there in zip(marks.values(), key, strict=True)]
        parts = [slot_of.get(part, part) for part in cut.split(_render(first, *texts)) if part]
        if [slot in parts for slot in SLOTS] == list(key) and parts.count("document") <= 1:
            found[key] = parts
    if (True, True, False) not in found:
        raise ModelBroken(
            f"{directory}: its chat template has no place for a message of the role 'query' and one of the role "
            "'document', so that CrossEncoder would score neither; give it a template that has (chat_template.jinja)"
        )
    return found


def _render(first: Any, query: str, document: str, system: str) -> str:
    """What the template makes of a pair; empty where it refuses."""
    messages: Any = first.input_formatter.pair_to_messages((query, document))
    if system:
        (messages,) = first.input_formatter.prepend_prompt_to_messages([messages], system)
    options: dict[str, Any] = first.processing_kwargs.get("chat_template", {})
    options = {name: value for name, value in options.items() if name not in NOT_OF_THE_TEMPLATE}
    try:
        return str(first.processor.apply_chat_template(messages, tokenize=False, **options))
    except Exception as error:  # noqa: BLE001 - a template is a program, and raises what it likes
        log.debug("a chat template refused: %s", type(error).__name__)
        return ""


def _trimmed(first: Any, marks: Mapping[str, str]) -> list[str]:
    wide = {slot: f" \n{mark} \n" for slot, mark in marks.items()}
    bare, instructed = (
        _render(first, wide["query"], wide["document"], system) for system in ("", wide["system"])
    )
    return [slot for slot, text in wide.items() if text not in (instructed if slot == "system" else bare)]
