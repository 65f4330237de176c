"""A tokenizer of transformers', but that no text forges a token of a frame: these have names that nobody can guess."""

import json
from collections.abc import Collection
from typing import Any

from tokenizers import Tokenizer

from rerankq_worker.model.secret_names import model_under, secret_names
from rerankq_worker.model.tokenizer import SETTLING_TOKENS


def settling_tokens(tokenizer: Any) -> int:
    """As the packed engine's: a cut inside an added token or an unknown word may leave a token per character."""
    word = getattr(tokenizer.backend_tokenizer.model, "max_input_chars_per_word", 0)
    return max(SETTLING_TOKENS, word) + max(map(len, tokenizer.get_added_vocab()), default=0)


def under_secret_names(tokenizer: Any, names: Collection[str]) -> tuple[Tokenizer, dict[str, str]]:
    """The same tokenizer, ids unchanged, that knows these tokens by other names only; and those."""
    secrets_of = secret_names(names)
    definition = json.loads(tokenizer.backend_tokenizer.to_str())
    added = [
        entry | {"content": secrets_of[entry["content"]], "normalized": False}
        if entry["content"] in names
        else entry
        for entry in definition["added_tokens"]
    ]
    bare = {
        **definition,
        **dict.fromkeys(("post_processor", "truncation", "padding")),
        "added_tokens": added,
        "model": model_under(definition["model"], secrets_of),
    }
    return Tokenizer.from_str(json.dumps(bare)), secrets_of
