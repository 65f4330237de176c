"""Tokens under names that nobody can guess: in a text they are characters. Knows the model of a tokenizer.json."""

import secrets
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast


def secret_names(names: Iterable[str]) -> dict[str, str]:
    """Another name for each, of this call alone."""
    secret = f" {secrets.token_hex(16)}"  # text is split at blanks before pieces are looked up
    return {name: name + secret for name in names}


def model_under(model: Mapping[str, Any], secrets_of: Mapping[str, str]) -> dict[str, Any]:
    """The same model, ids unchanged, that knows these tokens by other names only."""
    pieces: Any = model["vocab"]
    if isinstance(pieces, dict):
        named = cast(dict[str, int], pieces)
        vocabulary: Any = {secrets_of.get(piece, piece): index for piece, index in named.items()}
    else:
        vocabulary = [
            [secrets_of[entry[0]], *entry[1:]] if entry[0] in secrets_of else entry for entry in pieces
        ]
    changed = {**model, "vocab": vocabulary}
    if model.get("unk_token"):
        changed["unk_token"] = secrets_of.get(model["unk_token"], model["unk_token"])
    if model.get("merges"):  # a piece that is put together from others would be one of a text again
        changed["merges"] = [
            merge for merge in model["merges"] if not any(piece in secrets_of for piece in _pieces(merge))
        ]
    return changed


def _pieces(merge: str | Sequence[str]) -> tuple[str, str, str]:
    """What is merged, and into what."""
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right, left + right
