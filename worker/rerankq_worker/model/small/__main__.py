"""`python -m rerankq_worker.model.small`: build the small model and say where it is."""

import sys

from rerankq_worker.model.small import WEIGHTS_SHA256, materialise


def main() -> None:
    """Print the directory, the hash and the size of the weights."""
    directory = materialise()
    size_mb = (directory / "model.safetensors").stat().st_size / 1e6
    sys.stdout.write(f"{directory}\nmodel.safetensors: sha256 {WEIGHTS_SHA256}, {size_mb:.1f} MB\n")


if __name__ == "__main__":
    main()
