"""Bulk work: files in, files out (`BulkRun`), or an iterator in, an iterator out (`rerank_many`).

from rerankq import RerankClient
from rerankq.bulk import rerank_many

with RerankClient() as client:
    for request, answer in rerank_many(requests, client, top_n=10):
        ...
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rerankq.bulk.plan import Task
    from rerankq.bulk.run import BulkRun, Summary
    from rerankq.bulk.sending.asking import rerank_many

__all__ = ["BulkRun", "Summary", "Task", "rerank_many"]

STANDARD_STREAM = "-"
"""As a path: standard input, or standard output."""

# Celery and Redis are loaded with the first of these, so that `rerankq --help` is quick.
_LAZY = {"BulkRun": "run", "Summary": "run", "Task": "plan", "rerank_many": "sending.asking"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'rerankq.bulk' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"rerankq.bulk.{_LAZY[name]}"), name)
