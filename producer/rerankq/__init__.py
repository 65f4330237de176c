"""Durable cross-encoder reranking: the side that asks.

    from rerankq import RerankClient

Importing this is quick: Redis is loaded with the first client, Celery and a model never.
"""

from typing import TYPE_CHECKING, Any

from rerankq.contract.errors import (
    BrokerUnavailable,
    Cancelled,
    DeadlineExceeded,
    InvalidRequest,
    InvalidSettings,
    JobFailed,
    JobUnknown,
    NoWorkers,
    PayloadTooLarge,
    QueueFull,
    RerankError,
    ResultTimeout,
)
from rerankq.contract.messages import Document, RankedDocument, Ranking, RerankRequest
from rerankq.contract.release import VERSION
from rerankq.reranker import AsyncReranker, Reranker

if TYPE_CHECKING:
    from rerankq.aio import AsyncJob, AsyncRerankClient
    from rerankq.answers import JobStatus
    from rerankq.client import Job, RerankClient

__version__ = VERSION

__all__ = [
    "AsyncJob",
    "AsyncRerankClient",
    "AsyncReranker",
    "BrokerUnavailable",
    "Cancelled",
    "DeadlineExceeded",
    "Document",
    "InvalidRequest",
    "InvalidSettings",
    "Job",
    "JobFailed",
    "JobStatus",
    "JobUnknown",
    "NoWorkers",
    "PayloadTooLarge",
    "QueueFull",
    "RankedDocument",
    "Ranking",
    "RerankClient",
    "RerankError",
    "RerankRequest",
    "Reranker",
    "ResultTimeout",
]

_LAZY = {
    "AsyncJob": "rerankq.aio",
    "AsyncRerankClient": "rerankq.aio",
    "Job": "rerankq.client",
    "JobStatus": "rerankq.answers",
    "RerankClient": "rerankq.client",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'rerankq' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
