"""The engine that an operator's settings ask for. Knows names of settings; nothing of how an engine works."""

from typing import TYPE_CHECKING

from rerankq_worker.engine.engine import Engine
from rerankq_worker.engine.golden import refuse_drift

if TYPE_CHECKING:  # settings need pydantic, which who uses an engine alone need not have
    from rerankq_worker.settings import WorkerSettings


def load_engine(settings: "WorkerSettings", device: str) -> Engine:
    """`load_unchecked`, and a few pairs whose scores are known.

    Raises:
        ModelError, EngineError: one line each, with the way out.
    """
    engine = load_unchecked(settings, device)
    refuse_drift(engine)
    return engine


def load_unchecked(settings: "WorkerSettings", device: str) -> Engine:
    """`Engine.load` with the operator's settings.

    Args:
        device: `cpu0`, or `gpu0` and so on: the launcher leaves one GPU visible, whatever its number.
    """
    return Engine.load(
        settings.model,
        revision=settings.model_revision,
        engine=settings.engine,
        device="cuda" if device.startswith("gpu") else "cpu",
        dtype=settings.dtype,
        max_length_tokens=settings.max_length_tokens,
        max_batch_pairs=settings.max_batch_pairs,
        max_batch_tokens=settings.max_batch_tokens,
        threads=settings.threads,
        offline=settings.offline,
    )
