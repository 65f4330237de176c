"""Put the small model on disk, once, and hand out its directory.

The weights are those that `circuit.py` writes, with the trained last layer laid over them. They are written on first
use into a cache and checked against a pinned hash. Two processes may do it at once: each writes a directory of
its own, and the first to rename it wins. Knows numpy and safetensors, never torch.
"""

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from rerankq_worker.model.small import circuit

SMALL_MODEL_NAME = "rerankq-small"
WEIGHTS_SHA256 = "d85fd6e82c985f2237fd55fa3625dde57cf3a84049818e1d2b31cf0730790ac2"
CACHE_VARIABLE = "RERANKQ_CACHE_DIR"
HERE = Path(__file__).parent
PIECE_IDF = HERE / "piece_idf.bin"
LAST_LAYER = HERE / "last_layer.safetensors"
PIECE_LOG_WEIGHTS = "piece_log_weights"  # in that file: one per piece, in the place of what its idf gave it
WORDS = "roberta.embeddings.word_embeddings.weight"
MAX_LENGTH_TOKENS = circuit.POSITIONS - circuit.FIRST_POSITION


class SmallModelBroken(RuntimeError):
    """The small model that was written is not the one that was pinned."""


def materialise(cache_dir: Path | None = None) -> Path:
    """The directory of the small model: config, fp16 weights and tokenizer; written on the first call.

    Args:
        cache_dir: where to keep it; by default RERANKQ_CACHE_DIR, else ~/.cache/rerankq.

    Raises:
        SmallModelBroken: the weights there, or those just written, do not have the pinned hash.
        OSError: the cache cannot be written.
    """
    directory = (cache_dir or default_cache_dir()) / f"small-{WEIGHTS_SHA256[:8]}"
    if not directory.is_dir():
        _write_beside(directory)
    _check(directory / "model.safetensors")
    return directory


def default_cache_dir() -> Path:
    """RERANKQ_CACHE_DIR if it is set, else ~/.cache/rerankq."""
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named).expanduser() if named else Path.home() / ".cache" / "rerankq"


def written_weights() -> circuit.Tensors:
    """The weights as `circuit.py` writes them, before anything was trained."""
    return circuit.write_weights(np.frombuffer(PIECE_IDF.read_bytes(), dtype=np.uint8))


def trained_weights() -> circuit.Tensors:
    """The written weights with the last layer, the classifier and the weight of each piece as trained."""
    weights, trained = written_weights(), load_file(LAST_LAYER)
    pieces, dim = trained.pop(PIECE_LOG_WEIGHTS), circuit.feature("log_idf")
    weights[WORDS][:, dim], weights[WORDS][:, dim + 1] = pieces, -pieces
    return weights | trained


def _write_beside(directory: Path) -> None:
    """Fill a directory of our own beside the wanted one, then take its name unless another process has it."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    ours = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        _write_files(ours)
        ours.chmod(0o755)
        ours.rename(directory)
    except OSError:
        if not directory.is_dir():
            raise
    finally:
        shutil.rmtree(ours, ignore_errors=True)


def _write_files(directory: Path) -> None:
    """The five files of the model."""
    weights = trained_weights()
    (directory / "model.safetensors").write_bytes(_safetensors(weights))
    shutil.copyfile(HERE / "tokenizer.json", directory / "tokenizer.json")
    for name, content in (
        ("config.json", _config(len(weights[WORDS]))),
        ("tokenizer_config.json", _tokenizer_config()),
        ("special_tokens_map.json", _special_tokens()),
    ):
        (directory / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _safetensors(tensors: circuit.Tensors) -> bytes:
    """The tensors in the safetensors format, in name order.

    By hand, because the pinned hash must not change with the order or padding of a library's next version.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    data = bytearray()
    for name, tensor in sorted(tensors.items()):
        start = len(data)
        data += tensor.astype("<f2").tobytes()
        header[name] = {"dtype": "F16", "shape": list(tensor.shape), "data_offsets": [start, len(data)]}
    head = json.dumps(header, separators=(",", ":")).encode("ascii")
    head += b" " * (-len(head) % 8)
    return len(head).to_bytes(8, "little") + head + bytes(data)


def _check(weights: Path) -> None:
    """Refuse weights that differ from the pinned ones in a single bit."""
    found = hashlib.sha256(weights.read_bytes()).hexdigest()
    if found != WEIGHTS_SHA256:
        raise SmallModelBroken(
            f"expected {weights} to have sha256 {WEIGHTS_SHA256[:12]}, got {found[:12]}; "
            f"delete {weights.parent} and try again, or report the new hash with your numpy version"
        )


def _config(vocabulary: int) -> dict[str, object]:
    return {
        "architectures": ["XLMRobertaForSequenceClassification"],
        "model_type": "xlm-roberta",
        "vocab_size": vocabulary,
        "hidden_size": circuit.HIDDEN,
        "num_hidden_layers": circuit.LAYERS,
        "num_attention_heads": circuit.HEADS,
        "intermediate_size": circuit.FEED_FORWARD,
        "hidden_act": "gelu",
        "max_position_embeddings": circuit.POSITIONS,
        "type_vocab_size": 1,
        "layer_norm_eps": 1e-5,
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "bos_token_id": circuit.BOS,
        "pad_token_id": circuit.PAD,
        "eos_token_id": circuit.EOS,
        "id2label": {"0": "LABEL_0"},
        "label2id": {"LABEL_0": 0},
        "torch_dtype": "float16",
    }


def _tokenizer_config() -> dict[str, object]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": MAX_LENGTH_TOKENS,
        "padding_side": "right",
        "truncation_side": "right",
        "model_input_names": ["input_ids", "attention_mask"],
        **_special_tokens(),
    }


def _special_tokens() -> dict[str, str]:
    return {
        "bos_token": "<s>",
        "cls_token": "<s>",
        "eos_token": "</s>",
        "sep_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
        "mask_token": "<mask>",
    }
