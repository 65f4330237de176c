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
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers  # its models are loaded when one is named: every process of a test run collects this
from safetensors.torch import save_model
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import XLMRobertaConfig

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
    directory: Path, shape: str = "tiny", *, tokenizer_json: Path | None = None, seed: int = 7
) -> Path:
    """Writes config.json, model.safetensors, tokenizer.json and tokenizer_config.json; gives the directory back."""
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer.from_file(str(tokenizer_json)) if tokenizer_json else small_tokenizer()
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps(TOKENIZER_CONFIG))
    config = xlmr_config(SHAPES[shape], tokenizer.get_vocab_size())
    torch.manual_seed(seed)
    model = transformers.XLMRobertaForSequenceClassification(config)
    randomize_biases(model)
    config.save_pretrained(directory)
    save_model(model, str(directory / "model.safetensors"), metadata={"format": "pt"})
    return directory


def xlmr_config(shape: Shape, vocabulary_size: int) -> XLMRobertaConfig:
    return XLMRobertaConfig(
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
            if name.endswith("bias") or "LayerNorm" in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)


def small_tokenizer(vocabulary_size: int = 600) -> Tokenizer:
    """A Unigram tokenizer with XLM-RoBERTa's special ids: <s> 0, <pad> 1, </s> 2, <unk> 3, <mask> last.

    Its pieces are counted here: the library's own trainer gives another vocabulary on every run.
    """
    splitter = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    words = [word for line in CORPUS for word, _ in splitter.pre_tokenize_str(line)]
    tokenizer = Tokenizer(models.Unigram(_pieces(words, vocabulary_size), unk_id=SPECIAL.index("<unk>")))
    tokenizer.add_special_tokens(SPECIAL)
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
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return tokenizer


def _pieces(words: list[str], vocabulary_size: int) -> list[tuple[str, float]]:
    """Every character and the substrings that cover most of the words, with the logarithms of their shares."""
    found = Counter(
        word[start:end]
        for word in words
        for start in range(len(word))
        for end in range(start + 1, min(start + LONGEST_PIECE, len(word)) + 1)
    )
    by_cover = sorted(found, key=lambda piece: (len(piece) > 1, -found[piece] * len(piece), piece))
    kept = by_cover[: vocabulary_size - len(SPECIAL) - 1]
    total = sum(found[piece] for piece in kept)
    return [(name, 0.0) for name in SPECIAL] + [(piece, math.log(found[piece] / total)) for piece in kept]


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
