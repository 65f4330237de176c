"""Inputs of a given size in every format that bulk work reads, to see what they cost the client in memory."""

import csv
import gzip
import itertools
import json
import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rerankq.contract import wire

SEED = 20261126
DOCUMENTS = 20
DOCUMENT_CHARACTERS = 2_000
HUGE_DOCUMENTS = 100
HUGE_CHARACTERS = 50_000
_WORDS = [f"{'bcdfghklmnprst'[n % 14]}{'aeiou'[n % 5]}{n:x}" for n in range(20_000)]


def rows(megabytes: int, documents: int = DOCUMENTS, characters: int = DOCUMENT_CHARACTERS) -> Iterator[Any]:
    """Requests of so many megabytes of text, the same every time."""
    draw = random.Random(SEED)
    for number in range(megabytes * 1_000_000 // (documents * characters)):
        texts = [" ".join(draw.choices(_WORDS, k=characters // 6 + 1))[:characters] for _ in range(documents)]
        listed = [{"id": f"d{number}-{place}", "text": text} for place, text in enumerate(texts)]
        yield {"id": number, "query": f"query {number}", "documents": listed, "weight": number / 7}


def huge_rows(megabytes: int) -> Iterator[Any]:
    """The same in rows of 5 MB."""
    return rows(megabytes, HUGE_DOCUMENTS, HUGE_CHARACTERS)


def lines(requests: Iterable[Any]) -> Iterator[dict[str, Any]]:
    """In long form."""
    for row in requests:
        for document in row["documents"]:
            yield {
                "query_id": row["id"],
                "query": row["query"],
                "doc_id": document["id"],
                "text": document["text"],
            }


def write_jsonl(path: Path, requests: Iterable[Any]) -> None:
    """JSON lines, compressed as the name says."""
    if path.suffix == ".zst":
        with path.open("wb") as file:
            for row in requests:
                file.write(wire.compress(json.dumps(row).encode() + b"\n"))
        return
    with gzip.open(path, "wt", compresslevel=1) if path.suffix == ".gz" else path.open("w") as file:
        file.writelines(json.dumps(row) + "\n" for row in requests)


def write_table(path: Path, requests: Iterable[Any]) -> None:
    """CSV or TSV."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter="," if path.suffix == ".csv" else "\t")
        writer.writerow(["query_id", "query", "doc_id", "text"])
        writer.writerows(line.values() for line in lines(requests))


def write_parquet(path: Path, requests: Iterable[Any]) -> None:
    """Parquet in one row group, whatever its size."""
    table = _arrow(requests)
    pq.write_table(table, path, row_group_size=table.num_rows, compression="snappy")


def write_long_parquet(path: Path, requests: Iterable[Any]) -> None:
    """Parquet in one row group, a line per document."""
    write_parquet(path, lines(requests))


def write_arrow(path: Path, requests: Iterable[Any]) -> None:
    """An Arrow file of one record batch, compressed where it is called feather."""
    table = _arrow(requests).combine_chunks()
    options = pa.ipc.IpcWriteOptions(compression="lz4" if path.suffix == ".feather" else None)
    with pa.ipc.new_file(str(path), table.schema, options=options) as file:
        file.write_table(table)


def write_trec(path: Path, requests: Iterable[Any]) -> None:
    """A run, its corpus and its queries."""
    with (
        path.open("w") as run,
        path.with_name("corpus.jsonl").open("w") as corpus,
        path.with_name("queries.jsonl").open("w") as queries,
    ):
        for row in requests:
            queries.write(json.dumps({"_id": str(row["id"]), "text": row["query"]}) + "\n")
            for rank, document in enumerate(row["documents"], start=1):
                corpus.write(json.dumps({"_id": document["id"], "text": document["text"]}) + "\n")
                run.write(f"{row['id']} Q0 {document['id']} {rank} {1 / rank} bm25\n")


def _arrow(requests: Iterable[Any]) -> pa.Table:
    requests = iter(requests)
    parts: list[pa.RecordBatch] = []
    while part := list(itertools.islice(requests, 500)):
        parts.append(pa.RecordBatch.from_pylist(part))
    return pa.Table.from_batches(parts)


Writer = Callable[[Path, Iterable[Any]], None]

INPUTS: dict[str, tuple[str, Writer, Callable[[int], Iterator[Any]]]] = {
    "jsonl": ("in.jsonl", write_jsonl, rows),
    "jsonl, rows of 5 MB": ("in.jsonl", write_jsonl, huge_rows),
    "jsonl.gz": ("in.jsonl.gz", write_jsonl, rows),
    "jsonl.zst": ("in.jsonl.zst", write_jsonl, rows),
    "csv": ("in.csv", write_table, rows),
    "tsv": ("in.tsv", write_table, rows),
    "parquet, one row group": ("in.parquet", write_parquet, rows),
    "parquet, rows of 5 MB": ("in.parquet", write_parquet, huge_rows),
    "parquet, long form": ("in.parquet", write_long_parquet, rows),
    "arrow, one batch": ("in.arrow", write_arrow, rows),
    "feather, one batch, lz4": ("in.feather", write_arrow, rows),
    "trec and corpus": ("in.trec", write_trec, rows),
}
