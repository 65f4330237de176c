"""What a directory is known by where no commit names it: a hash over some files whole and over samples of others."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

SAMPLE_BYTES = 4096
SAMPLES = 64
DIGITS = 12


def fingerprint_over(whole: Iterable[Path], sampled: Iterable[Path]) -> str:
    """`sha256:` and 12 digits over files, and over the size and 64 samples, head and end included, of large ones.

    Sampled, because hashing 2 GB delays a restart by seconds; a fine-tuned model differs in every tensor, so
    samples tell it from its parent. It names a revision; it is no proof against tampering.
    """
    digest = hashlib.sha256()
    for file in whole:
        digest.update(file.read_bytes())
    for file in sampled:
        size_bytes = file.stat().st_size
        digest.update(size_bytes.to_bytes(8, "big"))
        with file.open("rb") as stream:
            for sample in range(SAMPLES):
                stream.seek(max(0, size_bytes - SAMPLE_BYTES) * sample // (SAMPLES - 1))
                digest.update(stream.read(SAMPLE_BYTES))
    return f"sha256:{digest.hexdigest()[:DIGITS]}"
