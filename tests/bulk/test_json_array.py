"""A JSON array is read as the stream of its elements, each a row of its own."""

import io
import json
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rerankq import InvalidRequest, RerankClient
from rerankq.bulk import Task
from rerankq.bulk.formats import json_array
from rerankq.bulk.formats.json_array import rows_of
from rerankq.bulk.plan import Plan
from tests.bulk.answering import AnsweringWorker
from tests.bulk.test_run import read, rows, run

values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.integers() | st.text(alphabet='ab"\\[]{},\n\té二'),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(alphabet='a"[\\}'), inner, max_size=3)
    ),
    max_leaves=8,
)


def elements(data: bytes) -> list[bytes]:
    return [line for _, line in rows_of(io.BufferedReader(io.BytesIO(data)))]  # type: ignore[arg-type]


@given(st.lists(values, max_size=5), st.sampled_from([None, 0, 2]), st.integers(1, 7))
def test_the_elements_are_those_of_the_array_wherever_it_is_cut(
    array: list[Any], indent: int | None, chunk_bytes: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_array, "CHUNK_BYTES", chunk_bytes)
        got = elements(b"\n" + json.dumps(array, indent=indent, ensure_ascii=False).encode() + b"\n ")

    assert [json.loads(line) for line in got] == array
    assert not any(b"\n" in line for line in got)


@settings(max_examples=20)
@given(st.lists(st.dictionaries(st.text(), values, min_size=1), min_size=1, max_size=4), st.integers(2, 9))
def test_objects_that_are_printed_prettily_are_rows(objects: list[Any], chunk_bytes: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_array, "CHUNK_BYTES", chunk_bytes)
        got = elements(b"\n".join(json.dumps(one, indent=2).encode() for one in objects))

    assert [json.loads(line) for line in got] == objects


def test_a_first_line_that_is_broken_costs_itself() -> None:
    assert elements(b'{\n{"a": 1}\n') == [b"{", b'{"a": 1}']


WRONG = {
    "no end": (b'[{"a": 1}, {"b"', "the array is cut off in its element 2"),
    "an open string": (b'[{"a": "}, {"b": 2}]', "the array is cut off in its element 1"),
    "an open object": (b'{\n"a": 1}\n{\n"b":', "the row of objects is cut off in its element 2"),
    "a second array": (b"[1]\n[2]", "something stands behind the array's end, after 1 elements"),
}


@pytest.mark.parametrize(("data", "reason"), WRONG.values(), ids=WRONG)
def test_an_array_without_its_end_is_told(data: bytes, reason: str) -> None:
    with pytest.raises((EOFError, ValueError), match=reason):
        elements(data)


def test_an_element_that_is_never_closed_is_not_read_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_array, "CHUNK_BYTES", 100)
    monkeypatch.setattr(json_array, "LONGEST_ELEMENT_BYTES", 1000)

    with pytest.raises(ValueError, match="element 2 does not end within"):
        elements(b'[{"a": 1}, {"b": 2, ' + b'{"c": 3}, ' * 1000 + b"]")


def test_memory_does_not_grow_with_an_array(tmp_path: Path) -> None:
    path = tmp_path / "in.json"
    path.write_text(json.dumps([{"text": "a" * 1000}] * 5_000))

    tracemalloc.start()
    with path.open("rb") as stream:
        count = sum(1 for _ in rows_of(stream))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert count == 5_000
    assert peak < path.stat().st_size / 4


def test_a_broken_element_costs_itself_and_can_be_mended(
    client: RerankClient, worker: AnsweringWorker, tmp_path: Path
) -> None:
    whole = json.dumps(rows(3), indent=1).replace('"tag": 1', '"tag": one')
    (tmp_path / "in.json").write_text(whole)

    summary = run(client, tmp_path / "in.json", tmp_path / "out.jsonl")

    assert summary.failed == 1
    assert summary.reasons[0].startswith("row 1: expected a JSON object, got none: ")
    errors = tmp_path / "out.jsonl.errors.jsonl"
    errors.write_bytes(errors.read_bytes().replace(b"one", b"1"))
    assert run(client, tmp_path / "in.json", tmp_path / "out.jsonl", retry_errors=True).failed == 0
    assert sorted(line["tag"] for line in read(tmp_path / "out.jsonl")) == [0, 1, 2]


def test_an_array_that_is_cut_off_says_where(
    client: RerankClient, worker: AnsweringWorker, tmp_path: Path
) -> None:
    (tmp_path / "in.json").write_text(json.dumps(rows(3))[:-20])

    with pytest.raises(InvalidRequest, match="after 2 rows: EOFError: the array is cut off in its element 3"):
        run(client, tmp_path / "in.json", tmp_path / "out.jsonl")


def test_an_array_in_a_pipe_is_told_however_long_its_first_element_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hits = [{"content": f"{place} " + "a" * 999, "qid": "q", "docid": place} for place in range(200)]
    piped = io.BytesIO(json.dumps([{"query": "?", "hits": hits}] * 2).encode())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(piped))

    plan = Plan(Task("-", str(tmp_path / "out.jsonl")))

    assert plan.read_as.name == "rank-llm"
    assert len(list(plan.reader.records())) == 2
