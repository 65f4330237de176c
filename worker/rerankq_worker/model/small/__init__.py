"""The small cross-encoder in the box: for demos, tests and laptops.

Word overlap whose last layer was trained (`training/`). `materialise()` gives a model directory like any other; no one
who loads it can tell. Needs nothing beside Python.
"""

from rerankq_worker.model.small.unpacking import WEIGHTS_SHA256, SmallModelBroken, materialise

__all__ = ["WEIGHTS_SHA256", "SmallModelBroken", "materialise"]
