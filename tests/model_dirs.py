"""Model directories made on the spot: the true architecture, random weights, a fast tokenizer.

Weights are drawn wide enough that attention is far from uniform: with transformers' own 0.02 every document would
score alike, and a wrong position or a leak between neighbours would not show.

    from tests.model_dirs import build_model_dir
    directory = build_model_dir(tmp_path / "tiny")
    directory = build_model_dir(cache / "true-shape", shape="true-shape", tokenizer_json=xlmr)   # for benches: 2.3 GB
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers  # its models are loaded when one is named: every process of a test run collects this
from safetensors.torch import save_model
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]
CORPUS = [
    "The giant panda is a bear species endemic to China. What is a panda? It eats bamboo and sleeps all day.",
    "Mars is known as the Red Planet; Venus is Earth's twin. How many moons does Jupiter have?",
    "A rerank job is a query with documents. The worker scores every pair and answers with a ranking.",
    "大熊猫是中国特有的熊科动物，以竹子为食。什么是大熊猫？它生活在四川、陕西和甘肃的山区。",
    "人工智能的历史可以追溯到一九五六年的达特茅斯会议。机器学习是它的一个分支。",
    "Большая панда живёт в Китае. مرحبا بالعالم، الباندا العملاقة. שלום עולם. パンダは竹を食べる。",
]
LONGEST_PIECE = 6  # characters; without a limit the sentences without spaces take the whole vocabulary


@dataclass(frozen=True, slots=True)
class Shape:
    hidden: int
    layers: int
    heads: int
    ffn: int
    positions: int = 8194
    weights_std: float = 0.05


SHAPES = {
    "tiny": Shape(hidden=32, layers=3, heads=4, ffn=64, weights_std=0.6),
    "short": Shape(hidden=32, layers=2, heads=4, ffn=64, positions=66, weights_std=0.6),
    "mini": Shape(hidden=384, layers=6, heads=12, ffn=1536),
    "true-shape": Shape(hidden=1024, layers=24, heads=16, ffn=4096, weights_std=0.02),
}


def build_model_dir(
    directory: Path,
    shape: str = "tiny",
    family: str = "xlm-roberta",
    *,
    tokenizer_json: Path | None = None,
    seed: int = 7,
    **changes: Any,
) -> Path:
    """Writes config.json, model.safetensors, tokenizer.json and tokenizer_config.json; gives the directory back.

    Args:
        family: a `model_type` that the packed engine computes, of `TOKENIZERS`.
        changes: what else config.json says.
    """
    directory.mkdir(parents=True, exist_ok=True)
    make_tokenizer, said = TOKENIZERS[family]
    tokenizer = Tokenizer.from_file(str(tokenizer_json)) if tokenizer_json else make_tokenizer()
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps(said))
    config = config_of(family, SHAPES[shape], tokenizer, **changes)
    torch.manual_seed(seed)
    model = transformers.AutoModelForSequenceClassification.from_config(config)
    randomize_biases(model)
    config.architectures = [type(model).__name__]
    config.save_pretrained(directory)
    save_model(model, str(directory / "model.safetensors"), metadata={"format": "pt"})
    return directory


def config_of(family: str, shape: Shape, tokenizer: Tokenizer, **changes: Any) -> Any:
    """A config of the family in that shape, with the ids that the tokenizer has."""
    if family == "xlm-roberta" and not changes:
        return xlmr_config(shape, tokenizer.get_vocab_size())
    own: dict[str, Any] = {
        "xlm-roberta": {"type_vocab_size": 1, "layer_norm_eps": 1e-5},
        "roberta": {"type_vocab_size": 1, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2},
        "camembert": {"type_vocab_size": 1, "pad_token_id": 1, "bos_token_id": 5, "eos_token_id": 6},
        "electra": {"embedding_size": shape.hidden // 2},
        "distilbert": {"hidden_dim": shape.ffn},
        "modernbert": {
            **dict.fromkeys(("bos_token_id", "cls_token_id"), 1),
            **dict.fromkeys(("eos_token_id", "sep_token_id"), 2),
            "pad_token_id": 3,
        },
    }.get(family, {})
    sizes = {
        "vocab_size": tokenizer.get_vocab_size(),
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "intermediate_size": shape.ffn,
        "max_position_embeddings": shape.positions,
        "initializer_range": shape.weights_std,
        "num_labels": 1,
    }
    return transformers.AutoConfig.for_model(family, **{**sizes, **own, **changes})


def xlmr_config(shape: Shape, vocabulary_size: int) -> "transformers.XLMRobertaConfig":
    return transformers.XLMRobertaConfig(
        vocab_size=vocabulary_size,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=shape.ffn,
        max_position_embeddings=shape.positions,
        initializer_range=shape.weights_std,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
        num_labels=1,
        architectures=["XLMRobertaForSequenceClassification"],
    )


def randomize_biases(model: torch.nn.Module) -> None:
    """transformers starts biases at 0 and norms at 1: a forgotten bias would not show."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or "norm" in name.lower():
                parameter.add_(torch.randn_like(parameter) * 0.1)


def small_tokenizer(vocabulary_size: int = 600, special: Sequence[str] = SPECIAL) -> Tokenizer:
    """A Unigram tokenizer with XLM-RoBERTa's special ids: <s> 0, <pad> 1, </s> 2, <unk> 3, <mask> last.

    Its pieces are counted here: the library's own trainer gives another vocabulary on every run.
    """
    splitter = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    words = [word for line in CORPUS for word, _ in splitter.pre_tokenize_str(line)]
    pieces = _pieces(words, vocabulary_size, special)
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=special.index("<unk>")))
    tokenizer.add_special_tokens(list(special))
    tokenizer.pre_tokenizer = splitter
    definition = json.loads(tokenizer.to_str())
    definition["model"]["vocab"].append(["<mask>", 0.0])
    definition["added_tokens"].append(
        {
            **definition["added_tokens"][0],
            "id": len(definition["model"]["vocab"]) - 1,
            "content": "<mask>",
            "lstrip": True,
        }
    )
    tokenizer = Tokenizer.from_str(json.dumps(definition))
    ends = [(name, tokenizer.token_to_id(name)) for name in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=ends
    )
    return tokenizer


def word_piece_tokenizer(vocabulary_size: int = 600, **normalizer: Any) -> Tokenizer:
    """BERT's: [PAD] 0, [UNK] 1, [CLS] 2, [SEP] 3, [MASK] 4; small letters, unless `normalizer` says otherwise."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    clean, splitter = normalizers.BertNormalizer(**normalizer), pre_tokenizers.BertPreTokenizer()
    words = [word for line in CORPUS for word, _ in splitter.pre_tokenize_str(clean.normalize_str(line))]
    pieces = _pieces(words, vocabulary_size, special, inside="##")
    vocabulary = {piece: index for index, (piece, _) in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.add_special_tokens(special)
    tokenizer.normalizer, tokenizer.pre_tokenizer = clean, splitter
    tokenizer.post_processor = _cls_and_sep(2, 3)
    return tokenizer


def byte_level_tokenizer(
    vocabulary_size: int = 600, special: Sequence[str] = SPECIAL, mask: str = "<mask>"
) -> Tokenizer:
    """RoBERTa's: <s> 0, <pad> 1, </s> 2, <unk> 3, <mask> 4, which takes the blank before it; then bytes and merges."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=[*special, AddedToken(mask, lstrip=True)],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return tokenizer


def modernbert_tokenizer() -> Tokenizer:
    """[UNK] 0, [CLS] 1, [SEP] 2, [PAD] 3, [MASK] 4; then bytes and merges; accents composed."""
    tokenizer = byte_level_tokenizer(special=["[UNK]", "[CLS]", "[SEP]", "[PAD]"], mask="[MASK]")
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.post_processor = _cls_and_sep(1, 2)
    return tokenizer


def _cls_and_sep(cls: int, sep: int) -> processors.TemplateProcessing:
    return processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", cls), ("[SEP]", sep)],
    )


def _pieces(
    words: list[str], vocabulary_size: int, special: Sequence[str], inside: str = ""
) -> list[tuple[str, float]]:
    """Every character and the substrings that cover most of the words, with the logarithms of their shares.

    Args:
        inside: what stands before a piece that does not begin its word.
    """
    found = Counter(
        (word[start:end], inside if start else "")
        for word in words
        for start in range(len(word))
        for end in range(start + 1, min(start + LONGEST_PIECE, len(word)) + 1)
    )
    by_cover = sorted(found, key=lambda piece: (len(piece[0]) > 1, -found[piece] * len(piece[0]), piece))
    kept = by_cover[: vocabulary_size - len(special) - 1]
    total = sum(found[piece] for piece in kept)
    shares = [(before + piece, math.log(found[piece, before] / total)) for piece, before in kept]
    return [(name, 0.0) for name in special] + shares


TOKENIZER_CONFIG = {
    "tokenizer_class": "XLMRobertaTokenizerFast",
    "model_max_length": 8192,
    "bos_token": "<s>",
    "eos_token": "</s>",
    "cls_token": "<s>",
    "sep_token": "</s>",
    "pad_token": "<pad>",
    "unk_token": "<unk>",
    "mask_token": "<mask>",
}
BERT_CONFIG = {
    "tokenizer_class": "BertTokenizer",
    "model_max_length": 8192,
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "mask_token": "[MASK]",
}
OF_CAMEMBERT = ["<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>NOTUSED", "<s>", "</s>"]
MASK = {"__type": "AddedToken", "content": "<mask>", "lstrip": True, "special": True}
TOKENIZERS: dict[str, tuple[Callable[[], Tokenizer], dict[str, Any]]] = {
    "xlm-roberta": (small_tokenizer, TOKENIZER_CONFIG),
    "roberta": (
        byte_level_tokenizer,
        {**TOKENIZER_CONFIG, "tokenizer_class": "RobertaTokenizer", "mask_token": MASK},
    ),
    "camembert": (
        lambda: small_tokenizer(special=OF_CAMEMBERT),
        {**TOKENIZER_CONFIG, "tokenizer_class": "CamembertTokenizer"},
    ),
    "bert": (word_piece_tokenizer, BERT_CONFIG),
    "ernie": (word_piece_tokenizer, BERT_CONFIG),
    "electra": (word_piece_tokenizer, {**BERT_CONFIG, "tokenizer_class": "ElectraTokenizerFast"}),
    "distilbert": (word_piece_tokenizer, {**BERT_CONFIG, "tokenizer_class": "DistilBertTokenizer"}),
    "modernbert": (
        modernbert_tokenizer,
        {
            **BERT_CONFIG,
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_input_names": ["input_ids", "attention_mask"],
        },
    ),
}
"""Of each family: the tokenizer, and what tokenizer_config.json says."""
