"""The tokens that were added to a tokenizer's vocabulary: which, in what order, under which ids. Reads JSON only.

Years of transformers have named them in five places; read here as its `AutoTokenizer`, and so CrossEncoder, reads them:
`added_tokens_decoder` of tokenizer_config.json, or without it added_tokens.json; `added_tokens` of tokenizer.json; then
the tokens with a role (`sep_token`, ...) and the additional ones of tokenizer_config.json and, without a
decoder, of special_tokens_map.json.
"""

from collections import ChainMap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from tokenizers import AddedToken

from rerankq_worker.model.family import Family
from rerankq_worker.model.files import ModelBroken
from rerankq_worker.model.frame import READ_AS_IT_IS, read_if_there, tokenizer_class

ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""The roles that tokens can have in a row, as transformers calls them."""

SAVE_ANEW = "save the tokenizer that the model was trained with into it once more (tokenizer.save_pretrained)"
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


@dataclass(frozen=True, slots=True)
class AddedTokens:
    """What a model directory says of the tokens added to its vocabulary."""

    tokens: Mapping[str, AddedToken]
    """By content, in the order in which they get their ids."""
    ids: tuple[tuple[str, int], ...]
    """Every id that a file gives to a content; files may contradict each other."""
    roles: Mapping[str, str]
    """The content of the token for each role."""
    frame: frozenset[str]
    """The contents of all tokens with a role, here and in the family, which no text may produce."""
    splits_special: bool
    """Whether special tokens in a text are to be read as characters."""


def read_added_tokens(directory: Path, definition: Mapping[str, Any], family: Family) -> AddedTokens:
    """The added tokens of a directory whose tokenizer.json holds `definition`.

    Raises:
        ModelBroken: the files contradict each other, so that no reading of them is the right one.
    """
    config = read_if_there(directory / "tokenizer_config.json")
    own = {int(entry["id"]): _token(entry) for entry in definition.get("added_tokens") or []}
    decoder = config.get("added_tokens_decoder")
    if decoder is None:
        sources = (family.tokens, config, read_if_there(directory / "special_tokens_map.json"))
        listed = _legacy(read_if_there(directory / "added_tokens.json"), sources)
        numbered = listed | own
    else:
        sources = (family.tokens, config)
        listed = {int(index): _token(entry) for index, entry in decoder.items()}
        is_built_anew = tokenizer_class(directory, family) not in READ_AS_IT_IS
        numbered = own | listed if is_built_anew else listed | own
        if is_built_anew:
            _refuse_unlisted(directory, own, listed, sources)
    roles = _roles(sources)
    in_order = [numbered[index] for index in sorted(numbered)]
    unnumbered = [_special(entry) for entry in (*roles.values(), *_additional(sources))]
    return AddedTokens(
        tokens=_first_of_each([*in_order, *unnumbered]),
        ids=tuple((token.content, index) for found in (listed, own) for index, token in found.items()),
        roles={role: _content(entry) for role, entry in roles.items()},
        frame=frozenset(map(_content, (*family.tokens.values(), *roles.values()))),
        splits_special=bool(config.get("split_special_tokens")),
    )


def _roles(sources: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The token for each of `ROLES`, as text or with its flags; a later source wins."""
    said = [{role: source[role] for role in ROLES if source.get(role)} for source in sources]
    return dict(ChainMap(*reversed(said)))


def _additional(sources: Sequence[Mapping[str, Any]]) -> Iterator[Any]:
    """Tokens with a role that only this model knows, then tokens with none."""
    lists = [
        source[name]
        for source in sources
        for name in ("extra_special_tokens", "additional_special_tokens")
        if source.get(name)
    ]
    for source in sources:
        for key, value in source.items():
            if key.endswith("_token") and key not in ROLES and isinstance(value, str | dict):
                yield value
    for several in lists:
        if isinstance(several, dict):
            yield from cast(dict[str, Any], several).values()
    for several in lists:
        if not isinstance(several, dict):
            yield from several


def _legacy(ids: Mapping[str, Any], sources: Sequence[Mapping[str, Any]]) -> dict[int, AddedToken]:
    """added_tokens.json: ids alone; whether a token is special is for other mentions of it to say."""
    special = {_content(entry) for entry in (*_roles(sources).values(), *_additional(sources))}
    return {int(index): AddedToken(content, special=content in special) for content, index in ids.items()}


def _refuse_unlisted(
    directory: Path,
    own: Mapping[int, AddedToken],
    listed: Mapping[int, AddedToken],
    sources: Sequence[Mapping[str, Any]],
) -> None:
    """A token of tokenizer.json that the decoder lacks: transformers 4 matches it, transformers 5 does not."""
    mentioned = (*_roles(sources).values(), *_additional(sources))
    known = {token.content for token in listed.values()} | {_content(entry) for entry in mentioned}
    for token in own.values():
        if token.content not in known:
            raise ModelBroken(
                f"{directory}: tokenizer.json adds the token {token.content!r}, which added_tokens_decoder of "
                f"tokenizer_config.json lacks; {SAVE_ANEW}"
            )


def _token(entry: Mapping[str, Any]) -> AddedToken:
    flags = {name: bool(entry[name]) for name in FLAGS if name in entry}
    return AddedToken(_content(entry), **flags)


def _special(entry: Any) -> AddedToken:
    flags = entry if isinstance(entry, dict) else {}
    return _token({"normalized": False, **flags, "content": _content(entry), "special": True})


def _content(entry: Any) -> str:
    content: Any = entry["content"] if isinstance(entry, Mapping) else entry
    if not isinstance(content, str):
        raise TypeError(f"expected a token's content to be text, got {type(content).__name__}")
    return content


def _first_of_each(tokens: Iterable[AddedToken]) -> dict[str, AddedToken]:
    found: dict[str, AddedToken] = {}
    for token in tokens:
        found.setdefault(token.content, token)
    return found
