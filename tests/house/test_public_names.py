"""What others import, by name. A change here is one that CHANGELOG.md tells; everything else may move.

`rerankq_worker.engine`, which loads torch, is held to its names in tests/engine.
"""

from importlib import import_module

import pytest

import rerankq

EXPORTED = (
    *("AsyncJob", "AsyncRerankClient", "AsyncReranker", "BrokerUnavailable", "Cancelled", "DeadlineExceeded"),
    *("Document", "InvalidRequest", "InvalidSettings", "Job", "JobFailed", "JobStatus", "JobUnknown"),
    *("NoWorkers", "PayloadTooLarge", "QueueFull", "RankedDocument", "Ranking", "RerankClient"),
    *("RerankError", "RerankRequest", "Reranker", "ResultTimeout"),
)
PUBLIC = {
    "rerankq": (*EXPORTED, "__version__"),
    "rerankq.bulk": ("BulkRun", "Summary", "Task", "rerank_many", "rerank_table"),
    "rerankq.celery": ("route", "signature"),
    "rerankq.cli": ("main",),
    "rerankq.contract.broker": ("celery_app",),
    "rerankq.contract.transport.connection": ("LeasedAMQP",),
    "rerankq.settings": ("ClientSettings",),
    "rerankq.testing": ("AsyncFakeRerankClient", "FakeRerankClient"),
    "rerankq.web": ("http_status", "unless_gone"),
    "rerankq_worker.__main__": ("main",),
    "rerankq_worker.app": ("app",),
    "rerankq_worker.doubles": ("noop", "slow", "treacherous"),
    "rerankq_worker.scoring": ("EngineBroken", "EngineInfo", "Logits", "ScoringEngine", "TokenIds"),
    "rerankq_worker.settings": ("WorkerSettings",),
}


@pytest.mark.parametrize("path", PUBLIC)
def test_a_public_path_has_its_names(path: str) -> None:
    module = import_module(path)

    assert [name for name in PUBLIC[path] if not hasattr(module, name)] == []


def test_no_name_is_exported_unnoticed() -> None:
    assert sorted(rerankq.__all__) == sorted(EXPORTED)
