"""What is true of every model of a family, in one record: its config, its positions, how it frames a pair, its weights.

A further family is one more record in `FAMILIES`, and a forward pass in `engine/` if it computes otherwise. Names and
numbers only; reads nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Models that one tokenizer's frame and one forward pass serve."""

    architecture: str
    """The class of transformers that config.json names."""
    model_type: str
    """By which transformers goes where no class is named."""
    forward: str
    """The forward pass that computes it: a name of `FORWARDS` in engine/loading.py."""
    demanded: Mapping[str, object]
    """What config.json must say, where it says it at all, for the forward pass to compute what transformers does."""
    smallest: Mapping[str, int]
    """What numbers of config.json must at least be."""
    first_position: int
    """From where positions are counted: the rows of the position table before it are never used."""
    tokens: Mapping[str, str]
    """The roles that tokens have in a row, and the family's own tokens for them; a directory may name others."""
    frame: tuple[Sequence[str], Sequence[str], Sequence[str]]
    """The roles before the query, between query and document, and behind the document."""
    weights: tuple[str, ...]
    """How names of tensors begin that are a part of the score; others belong to a training."""
    head: tuple[str, ...]
    """The modules, first to last, without which a model gives vectors, not scores."""

    def usable_length_tokens(self, config: Mapping[str, Any]) -> int:
        """The longest row the position table can hold: 8192 for bge-reranker-v2-m3, whose table has 8194 rows.

        A position beyond the table is a device assert on CUDA, and that poisons the whole process.
        """
        return int(config["max_position_embeddings"]) - self.first_position

    def framed(self, query: str, document: str) -> str:
        """A pair as the family reads it, in its own tokens."""
        before, between, behind = ("".join(self.tokens[role] for role in roles) for roles in self.frame)
        return " ".join(filter(None, (before, query, between, document, behind)))


XLM_ROBERTA = Family(
    architecture="XLMRobertaForSequenceClassification",
    model_type="xlm-roberta",
    forward="bert",
    demanded={
        "model_type": "xlm-roberta",
        "hidden_act": "gelu",
        "position_embedding_type": "absolute",
        "pad_token_id": 1,
        "is_decoder": False,
    },
    smallest={
        "max_position_embeddings": 18,
        "vocab_size": 1,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "hidden_size": 1,
        "intermediate_size": 1,
    },
    first_position=2,  # pad_token_id + 1
    tokens={
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "sep_token": "</s>",
        "pad_token": "<pad>",
        "cls_token": "<s>",
        "mask_token": "<mask>",
    },
    frame=(["bos_token"], ["eos_token", "eos_token"], ["eos_token"]),
    weights=("roberta.encoder.", "roberta.embeddings.", "classifier."),
    head=("classifier.dense", "classifier.out_proj"),
)

MODERNBERT = Family(
    architecture="ModernBertForSequenceClassification",
    model_type="modernbert",
    forward="modernbert",
    demanded={"model_type": "modernbert"},
    smallest=XLM_ROBERTA.smallest,
    first_position=0,
    tokens={
        "unk_token": "[UNK]",
        "sep_token": "[SEP]",
        "pad_token": "[PAD]",
        "cls_token": "[CLS]",
        "mask_token": "[MASK]",
    },
    frame=(["cls_token"], ["sep_token"], ["sep_token"]),
    weights=("model.", "head.", "classifier."),
    head=("head.dense", "head.norm", "classifier"),
)

FAMILIES = (XLM_ROBERTA, MODERNBERT)
