"""The small cross-encoder in the box: for demos, tests and laptops.

Word overlap whose last layer was trained. `materialise()` gives a model directory like any other; no one who
loads it can tell. Knows numpy, never torch.
"""

from rerankq_worker.model.small.shelf import (
    SMALL_MODEL_NAME,
    WEIGHTS_SHA256,
    SmallModelBroken,
    materialise,
)

__all__ = ["SMALL_MODEL_NAME", "WEIGHTS_SHA256", "SmallModelBroken", "materialise"]
