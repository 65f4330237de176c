"""Bulk work: files in, files out (`BulkRun`), an iterator or a table in, an iterator (`rerank_many`) or a table out.

from rerankq import RerankClient
from rerankq.bulk import rerank_many

with RerankClient() as client:
    for request, answer in rerank_many(requests, client, top_n=10):
        ...
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rerankq.bulk.from_python import rerank_many, rerank_table
    from rerankq.bulk.run import BulkRun, Summary
    from rerankq.bulk.task import Task

__all__ = ["BulkRun", "Summary", "Task", "rerank_many", "rerank_table"]

STANDARD_STREAM = "-"
"""As a path: standard input, or standard output."""

# Celery and Redis are loaded with the first of these, so that `rerankq --help` is quick.
_LAZY = {
    "BulkRun": "run",
    "Summary": "run",
    "Task": "task",
    "rerank_many": "from_python",
    "rerank_table": "from_python",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'rerankq.bulk' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"rerankq.bulk.{_LAZY[name]}"), name)
