"""Put the small model on disk, once, and hand out its directory.

Unpacked on first use into a cache, checked against a pinned hash. Two processes may do it at once: each fills a
directory of its own, and the first to rename it wins.
"""

import hashlib
import lzma
import os
import shutil
import tempfile
from pathlib import Path

WEIGHTS_SHA256 = "d85fd6e82c985f2237fd55fa3625dde57cf3a84049818e1d2b31cf0730790ac2"
CACHE_VARIABLE = "RERANKQ_CACHE_DIR"
BOX = Path(__file__).parent
WEIGHTS = "model.safetensors"
FILES = ("config.json", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json")


class SmallModelBroken(RuntimeError):
    """The small model that was unpacked is not the one that was pinned."""


def materialise(cache_dir: Path | None = None) -> Path:
    """The directory of the small model: config, fp16 weights and tokenizer; unpacked on the first call.

    Args:
        cache_dir: where to keep it; by default RERANKQ_CACHE_DIR, else ~/.cache/rerankq.

    Raises:
        SmallModelBroken: the weights there, or those just unpacked, do not have the pinned hash.
        OSError: the cache cannot be written.
    """
    directory = (cache_dir or default_cache_dir()) / f"small-{WEIGHTS_SHA256[:8]}"
    if not directory.is_dir():
        _fill_beside(directory)
    _check(directory / WEIGHTS)
    return directory


def default_cache_dir() -> Path:
    """RERANKQ_CACHE_DIR if it is set, else ~/.cache/rerankq."""
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named).expanduser() if named else Path.home() / ".cache" / "rerankq"


def _fill_beside(directory: Path) -> None:
    """Fill a directory of our own beside the wanted one, then take its name unless another process has it."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    ours = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        (ours / WEIGHTS).write_bytes(lzma.decompress((BOX / f"{WEIGHTS}.xz").read_bytes()))
        for name in FILES:
            shutil.copyfile(BOX / name, ours / name)
        ours.chmod(0o755)
        ours.rename(directory)
    except OSError:
        if not directory.is_dir():
            raise
    finally:
        shutil.rmtree(ours, ignore_errors=True)


def _check(weights: Path) -> None:
    """Refuse weights that differ from the pinned ones in a single bit."""
    found = hashlib.sha256(weights.read_bytes()).hexdigest()
    if found != WEIGHTS_SHA256:
        raise SmallModelBroken(
            f"expected {weights} to have sha256 {WEIGHTS_SHA256[:12]}, got {found[:12]}; "
            f"delete {weights.parent} and try again"
        )
