"""Who uses the cores: the engine when it runs on them, the tokenizer when they would idle beside a GPU."""

import pytest

from rerankq_worker.doubles import Behaviour, DoubleEngine
from rerankq_worker.settings import WorkerSettings
from tests.service import Service

DOCUMENTS = [f"some words in document {number} " * 10 for number in range(200)]


def on_a_gpu(settings: WorkerSettings, _device: str) -> DoubleEngine:
    return DoubleEngine(settings, "cuda:0 a GPU", Behaviour())


@pytest.mark.parametrize(
    ("engine", "is_parallel"),
    [("rerankq_worker.doubles:noop", False), ("tests.worker.test_cores:on_a_gpu", True)],
    ids=["on the CPU", "on a GPU"],
)
def test_documents_are_tokenized_side_by_side_only_beside_a_gpu(engine: str, is_parallel: bool) -> None:
    with Service(engine=engine, bulk_workers=0, max_length_tokens=32) as service:
        # in windows, whose places in the text the tokenizers library alone tells
        service.client.rerank("some question", DOCUMENTS, long_documents="windows")

        assert (service.celery_child("interactive").num_threads() > 1) == is_parallel
