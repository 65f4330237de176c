"""`verify`: load a model as a worker would, say how it runs, and compare its scores with published ones."""

import os
from typing import Any

from rerankq_worker.host.devices import chosen_devices
from rerankq_worker.model.files import find_model
from rerankq_worker.settings import WorkerSettings

UNCHECKED = "rerankq_worker.engine.from_settings:load_unchecked"  # here a wrong score is shown, not refused


def verify(settings: WorkerSettings) -> int:
    """The exit code: 1 where the scores of known weights are off, or none is a number.

    Raises:
        ModelError, EngineError: it does not load; one line, with the way out.
    """
    engine = load(settings)
    info = engine.info
    print(f"{info.model} ({info.revision}) runs in {info.dtype} on {info.device}")
    print(f"family {info.family or 'unknown'}, engine {info.engine}, scores on the scale {info.scale}")
    print(f"rows of at most {info.max_length_tokens} tokens, {info.max_batch_tokens} tokens a batch")
    return _compare_with_published(engine)


def load(settings: WorkerSettings) -> Any:
    """The settings' engine on the first of their devices, warmed up."""
    from rerankq_worker.engine_process.process import make_engine

    # refuses in a moment what torch would take seconds to reach
    find_model(settings.model, settings.model_revision, settings.offline)
    device = chosen_devices(settings.devices)[0]
    os.environ["CUDA_VISIBLE_DEVICES"] = device.cuda_visible_devices  # before torch looks
    engine: Any = make_engine(settings.model_copy(update={"engine_factory": UNCHECKED}), device.name)
    engine.warm_up()
    return engine


def _compare_with_published(engine: Any) -> int:
    from rerankq_worker.engine import golden
    from rerankq_worker.model.published import is_known

    results = golden.verify(engine)
    if not results:
        print("nobody has published scores of this model, so none could be compared")
        return 0
    for result in results:
        verdict, pair = "ok" if result.ok else "WRONG", result.pair
        print(f"{verdict:5} expected {pair.logit:9.4f}, got {result.got:9.4f}: {pair.query[:40]!r}")
    wrong = sum(not result.ok for result in results)
    print(f"{len(results) - wrong} of {len(results)} published scores were met")
    if is_known(engine.info.model, engine.info.revision) or any(
        result.got != result.got for result in results
    ):
        return 1 if wrong else 0
    print(
        "whether these are the published weights is not known: a fine-tune of that name has scores of its own"
    )
    return 0
