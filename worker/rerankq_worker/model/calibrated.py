"""What the file says that holds how a model's int8 products are scaled. Knows no torch and no tensor."""

import json
from pathlib import Path

from rerankq_worker.model.files import CALIBRATION, tensors_in, weight_files
from rerankq_worker.model.fingerprints import fingerprint_over


def weights_of(directory: Path) -> str:
    """What the weights of a directory are known by, whatever lies beside them."""
    return fingerprint_over([], weight_files(directory))


def calibration_of(directory: Path) -> dict[str, str] | None:
    """How it was calibrated, printable: `model`, `revision`, `date`, `pairs` and so on; None where it was not.

    Raises:
        ModelBroken: the file is cut off.
    """
    file = directory / CALIBRATION
    if not file.is_file():
        return None
    tensors_in(file)
    with file.open("rb") as stream:
        head = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    said = head.get("__metadata__")
    told = said.items() if isinstance(said, dict) else ()
    return {str(name): "".join(filter(str.isprintable, str(value))) for name, value in told}
