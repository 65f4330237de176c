"""Bulk work: files in, files out (`BulkRun`), or an iterator in, an iterator out (`rerank_many`).

from rerankq import RerankClient
from rerankq.bulk import rerank_many

with RerankClient() as client:
    for request, answer in rerank_many(requests, client, top_n=10):
        ...
"""

from rerankq.bulk.asking import rerank_many
from rerankq.bulk.formats import FieldNames
from rerankq.bulk.plan import Task
from rerankq.bulk.run import BulkRun, Summary

__all__ = ["BulkRun", "FieldNames", "Summary", "Task", "rerank_many"]
