"""Pack the small model as the worker ships it: the circuit, with the trained last layer laid over it.

python training/pack.py worker/rerankq_worker/model/small/model.safetensors.xz
"""

import hashlib
import json
import lzma
import sys
from pathlib import Path

import circuit
import numpy as np
from safetensors.numpy import load_file

HERE = Path(__file__).parent
PIECE_IDF = HERE / "piece_idf.bin"
LAST_LAYER = HERE / "last_layer.safetensors"
PIECE_LOG_WEIGHTS = "piece_log_weights"  # in that file: one per piece, in the place of what its idf gave it
WORDS = "roberta.embeddings.word_embeddings.weight"


def main() -> None:
    """Write the file named on the command line, and print the hash that `unpacking.py` pins."""
    weights = as_safetensors(trained_weights())
    Path(sys.argv[1]).write_bytes(lzma.compress(weights, preset=9 | lzma.PRESET_EXTREME))
    sys.stdout.write(f"sha256 {hashlib.sha256(weights).hexdigest()}\n")


def written_weights() -> circuit.Tensors:
    """The weights as `circuit.py` writes them, before anything was trained."""
    return circuit.write_weights(np.frombuffer(PIECE_IDF.read_bytes(), dtype=np.uint8))


def trained_weights() -> circuit.Tensors:
    """The written weights with the last layer, the classifier and the weight of each piece as trained."""
    weights, trained = written_weights(), load_file(LAST_LAYER)
    pieces, dim = trained.pop(PIECE_LOG_WEIGHTS), circuit.feature("log_idf")
    weights[WORDS][:, dim], weights[WORDS][:, dim + 1] = pieces, -pieces
    return weights | trained


def as_safetensors(tensors: circuit.Tensors) -> bytes:
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


if __name__ == "__main__":
    main()
