"""What is true of every model of a family, in one record: its config, its positions, its tokens, its weights.

A further family is one more record in `FAMILIES`, and a forward pass in `engine/` if it computes otherwise. Names and
numbers only; reads nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Models that one forward pass serves."""

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
    counts_from_padding: bool = False
    """Whether the first position is the one behind the padding token's id; the rows before it are never used."""
    segments: int = 1
    """How many a token may be of, where config.json does not say `type_vocab_size`; 1: the model knows none."""
    tokenizer: str
    """The tokenizer's class, where no file names one."""
    tokens: Mapping[str, str]
    """The roles that tokens have in a row, and the family's own tokens for them; a directory may name others."""
    weights: tuple[str, ...]
    """How names of tensors begin that are a part of the score; others belong to a training."""
    head: tuple[str, ...]
    """The modules, first to last, without which a model gives vectors, not scores."""
    activation: str = "tanh"
    """Between the two modules of the head, where there are two."""

    def first_position(self, config: Mapping[str, Any]) -> int:
        """The row of the position table that a row's first token takes."""
        return int(config.get("pad_token_id", 1)) + 1 if self.counts_from_padding else 0

    def usable_length_tokens(self, config: Mapping[str, Any]) -> int:
        """The longest row the position table can hold: 8192 for bge-reranker-v2-m3, whose table has 8194 rows.

        A position beyond the table is a device assert on CUDA, and that poisons the whole process.
        """
        return int(config["max_position_embeddings"]) - self.first_position(config)


XLM_ROBERTA = Family(
    architecture="XLMRobertaForSequenceClassification",
    model_type="xlm-roberta",
    forward="bert",
    demanded={"position_embedding_type": "absolute", "is_decoder": False},
    smallest={
        "max_position_embeddings": 18,
        "vocab_size": 1,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "hidden_size": 1,
        "intermediate_size": 1,
    },
    counts_from_padding=True,
    segments=2,
    tokenizer="XLMRobertaTokenizer",
    tokens={
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "sep_token": "</s>",
        "pad_token": "<pad>",
        "cls_token": "<s>",
        "mask_token": "<mask>",
    },
    weights=("roberta.encoder.", "roberta.embeddings.", "classifier."),
    head=("classifier.dense", "classifier.out_proj"),
)
ROBERTA = replace(
    XLM_ROBERTA,
    architecture="RobertaForSequenceClassification",
    model_type="roberta",
    tokenizer="RobertaTokenizer",
)
CAMEMBERT = replace(
    XLM_ROBERTA,
    architecture="CamembertForSequenceClassification",
    model_type="camembert",
    tokenizer="CamembertTokenizer",
)
BERT = replace(
    XLM_ROBERTA,
    architecture="BertForSequenceClassification",
    model_type="bert",
    smallest={**XLM_ROBERTA.smallest, "max_position_embeddings": 16},
    counts_from_padding=False,
    tokenizer="BertTokenizer",
    tokens={
        "unk_token": "[UNK]",
        "sep_token": "[SEP]",
        "pad_token": "[PAD]",
        "cls_token": "[CLS]",
        "mask_token": "[MASK]",
    },
    weights=("bert.", "classifier."),
    head=("bert.pooler.dense", "classifier"),
)
ERNIE = replace(
    BERT,
    architecture="ErnieForSequenceClassification",
    model_type="ernie",
    demanded={**BERT.demanded, "use_task_id": False},
    weights=("ernie.", "classifier."),
    head=("ernie.pooler.dense", "classifier"),
)
ELECTRA = replace(
    BERT,
    architecture="ElectraForSequenceClassification",
    model_type="electra",
    weights=("electra.", "classifier."),
    head=("classifier.dense", "classifier.out_proj"),
    activation="gelu",
)
DISTILBERT = replace(
    BERT,
    architecture="DistilBertForSequenceClassification",
    model_type="distilbert",
    demanded={},
    smallest={
        "max_position_embeddings": 16,
        **dict.fromkeys(("vocab_size", "n_layers", "n_heads", "dim", "hidden_dim"), 1),
    },
    segments=1,
    weights=("distilbert.", "pre_classifier.", "classifier."),
    head=("pre_classifier", "classifier"),
    activation="relu",
)

MODERNBERT = Family(
    architecture="ModernBertForSequenceClassification",
    model_type="modernbert",
    forward="modernbert",
    demanded={},
    smallest=BERT.smallest,
    tokenizer="TokenizersBackend",
    tokens=BERT.tokens,
    weights=("model.", "head.", "classifier."),
    head=("head.dense", "head.norm", "classifier"),
)

FAMILIES = (XLM_ROBERTA, ROBERTA, CAMEMBERT, BERT, ERNIE, ELECTRA, DISTILBERT, MODERNBERT)
