"""Model directories of families that only sentence-transformers computes: true architectures, random weights.

from tests.st_dirs import BUILDERS
directory = BUILDERS["qwen3"](tmp_path / "qwen3")
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_model
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from tests.model_dirs import CORPUS, randomize_biases

Sizes = Mapping[str, Any]
SMALL: Sizes = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 512,
    "initializer_range": 0.4,
}
MINI: Sizes = {
    "hidden_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
    "max_position_embeddings": 2048,
}
"""For benches: model_dirs' mini."""
CHAT = """<|im_start|>system
Judge whether the Document answers the Query. Only "yes" or "no".<|im_end|>
<|im_start|>user
<Instruct>: {{ messages[0].content if messages[0].role == 'system' else 'Find passages' }}
<Query>: {{ (messages | selectattr('role', 'equalto', 'query') | first).content }}
<Document>: {{ (messages | selectattr('role', 'equalto', 'document') | first).content | trim }}<|im_end|>
<|im_start|>assistant
<think>

</think>

"""
TURNS = (
    "<bos>A: {{ messages | selectattr('role', 'eq', 'query') | map(attribute='content') | first }}\n"
    "B: {{ messages | selectattr('role', 'eq', 'document') | map(attribute='content') | first }}\n"
    "{{ messages | selectattr('role', 'eq', 'system') | map(attribute='content') | first | default('Is B for A?') }}"
)


def deberta(directory: Path, sizes: Sizes = SMALL, **changes: Any) -> Path:
    """DeBERTa-v2 with a one-label head: mxbai-rerank v1 and its like."""
    roles = {"cls": "[CLS]", "sep": "[SEP]", "pad": "[PAD]", "unk": "[UNK]", "mask": "[MASK]"}
    tokenizer = _sentencepiece_like(["[PAD]", "[CLS]", "[SEP]", "[UNK]"], "[UNK]")
    tokenizer.add_special_tokens([AddedToken("[MASK]", lstrip=True, special=True)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 1), ("[SEP]", 2)],
    )
    config = transformers.DebertaV2Config(
        **sizes,
        vocab_size=tokenizer.get_vocab_size(),
        type_vocab_size=2,
        relative_attention=True,
        pos_att_type=["p2c", "c2p"],
        position_biased_input=False,
        position_buckets=256,
        pad_token_id=0,
        **({"num_labels": 1} | changes),
    )
    model = transformers.DebertaV2ForSequenceClassification(config)
    read_as = {
        "tokenizer_class": "TokenizersBackend",
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
    }
    return _saved(
        directory, model, tokenizer, {f"{role}_token": token for role, token in roles.items()} | read_as
    )


def qwen2(directory: Path, sizes: Sizes = SMALL, **changes: Any) -> Path:
    """Qwen2 with a one-label head."""
    tokenizer = _byte_level()
    config = transformers.Qwen2Config(
        **sizes,
        num_key_value_heads=2,
        vocab_size=tokenizer.get_vocab_size(),
        pad_token_id=0,
        **({"num_labels": 1} | changes),
    )
    return _saved(
        directory, transformers.Qwen2ForSequenceClassification(config), tokenizer, _qwen_tokens(sizes)
    )


def qwen3(directory: Path, sizes: Sizes = SMALL, *, template: str = CHAT) -> Path:
    """A causal Qwen3 that is asked for yes or no in a chat template: Qwen3-Reranker and its like."""
    tokenizer = _byte_level()
    config = transformers.Qwen3Config(
        **sizes,
        num_key_value_heads=2,
        head_dim=sizes["hidden_size"] // sizes["num_attention_heads"],
        vocab_size=tokenizer.get_vocab_size(),
        pad_token_id=0,
        tie_word_embeddings=True,
    )
    _saved(directory, transformers.Qwen3ForCausalLM(config), tokenizer, _qwen_tokens(sizes))
    (directory / "chat_template.jinja").write_text(template)
    return directory


def gemma(directory: Path, sizes: Sizes = SMALL) -> Path:
    """A causal Gemma whose score is the logit of "Yes", as sentence-transformers' modules say; its prompt is last."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    tokenizer = _sentencepiece_like(special, "<unk>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A $B", special_tokens=[("<bos>", 2)]
    )
    config = transformers.GemmaConfig(
        **sizes,
        num_key_value_heads=1,
        head_dim=sizes["hidden_size"] // sizes["num_attention_heads"],
        vocab_size=tokenizer.get_vocab_size(),
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
    )
    roles = {f"{name}_token": f"<{name}>" for name in ("pad", "eos", "bos", "unk")}
    _saved(
        directory,
        transformers.GemmaForCausalLM(config),
        tokenizer,
        roles | {"tokenizer_class": "TokenizersBackend"},
    )
    (directory / "chat_template.jinja").write_text(TURNS)
    forward = {"method": "forward", "method_output_name": "logits"}
    module = "sentence_transformers.base.modules.transformer.Transformer"
    score = "sentence_transformers.cross_encoder.modules.logit_score.LogitScore"
    files: Mapping[str, Any] = {
        "modules.json": [
            {"idx": 0, "name": "0", "path": "", "type": module},
            {"idx": 1, "name": "1", "path": "1_LogitScore", "type": score},
        ],
        "1_LogitScore/config.json": {"true_token_id": tokenizer.token_to_id("Y"), "false_token_id": None},
        "config_sentence_transformers.json": {
            "model_type": "CrossEncoder",
            "prompts": {"passages": "Predict whether B answers A."},
            "default_prompt_name": "passages",
            "activation_fn": "torch.nn.modules.linear.Identity",
        },
        "sentence_bert_config.json": {
            "transformer_task": "text-generation",
            "modality_config": {"text": forward, "message": forward | {"format": "flat"}},
            "module_output_name": "causal_logits",
        },
    }
    for name, content in files.items():
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text(json.dumps(content))
    return directory


BUILDERS: Mapping[str, Callable[..., Path]] = {
    "deberta": deberta,
    "qwen2": qwen2,
    "qwen3": qwen3,
    "gemma": gemma,
}


def _qwen_tokens(sizes: Sizes) -> Mapping[str, Any]:
    return {
        "tokenizer_class": "TokenizersBackend",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "model_max_length": sizes["max_position_embeddings"],
    }


def _saved(directory: Path, model: Any, tokenizer: Tokenizer, tokens: Mapping[str, Any]) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(11)
    model.init_weights()
    randomize_biases(model)
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps(tokens))
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(directory)
    save_model(model, str(directory / "model.safetensors"), metadata={"format": "pt"})
    return directory


def _words() -> list[str]:
    return list(dict.fromkeys(word for line in CORPUS for word in line.split()))


def _byte_level() -> Tokenizer:
    """Bytes, and the words of the corpus put together of them, as Qwen's: merged with the blank before them."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    pieces, merges = [*special, *alphabet], []
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False)
    for word, _ in splitter.pre_tokenize_str("yes no " + " ".join(_words())):
        for end in range(2, min(len(word), 8) + 1):
            if word[:end] not in pieces:
                merges.append((word[: end - 1], word[end - 1]))
                pieces.append(word[:end])
    tokenizer = Tokenizer(models.BPE({piece: index for index, piece in enumerate(pieces)}, merges))
    tokenizer.pre_tokenizer, tokenizer.decoder = splitter, decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    tokenizer.add_tokens(["<think>", "</think>", "no"])
    return tokenizer


def _sentencepiece_like(special: list[str], unknown: str) -> Tokenizer:
    """Characters and some words, a blank being a piece of its own, as sentencepiece has them."""
    characters = sorted(
        {character for line in CORPUS for character in line.replace(" ", "▁")} | set("ABDY.?:")
    )
    words = [f"▁{word}" for word in _words() if word not in characters]
    pieces = [(token, 0.0) for token in special]
    pieces += [(piece, -10.0) for piece in characters] + [(piece, -9.0) for piece in words]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=special.index(unknown)))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.add_special_tokens(special)
    return tokenizer
