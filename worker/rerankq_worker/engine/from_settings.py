"""The engine that an operator's settings ask for. Knows names of settings; nothing of how an engine works."""

from rerankq_worker.engine.engine import Engine
from rerankq_worker.settings import WorkerSettings

DEVICES = {"auto": "auto", "cpu": "cpu"}  # anything else names GPUs, of which the launcher left one visible


def load_engine(settings: WorkerSettings) -> Engine:
    """`Engine.load` with the operator's settings, for the one device that this process can see."""
    return Engine.load(
        settings.model,
        revision=settings.model_revision,
        device=DEVICES.get(settings.devices, "cuda"),
        dtype=settings.dtype,
        max_length_tokens=settings.max_length_tokens,
        max_batch_pairs=settings.max_batch_pairs,
        max_batch_tokens=settings.max_batch_tokens,
        threads=settings.threads,
        offline=settings.offline,
    )
