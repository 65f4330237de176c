"""Where the documents of a command come from."""

import io
import sys
from pathlib import Path

import pytest

from rerankq.cli.documents import read_documents
from rerankq.contract.errors import InvalidRequest


def test_arguments_are_the_documents_in_their_order() -> None:
    assert read_documents(["b", "a"], None) == ["b", "a"]


def test_a_blank_line_is_a_document_so_that_indices_are_line_numbers(tmp_path: Path) -> None:
    file = tmp_path / "documents.txt"
    file.write_text("one\n\nthree\n")

    documents = read_documents([], file)

    assert documents == ["one", "", "three"]


def test_what_windows_adds_to_a_text_file_is_no_part_of_a_document(tmp_path: Path) -> None:
    file = tmp_path / "documents.txt"
    file.write_bytes(b"\xef\xbb\xbf\xe4\xb8\x80\r\n\xe4\xba\x8c\r\n")

    documents = read_documents([], file)

    assert documents == ["一", "二"]


def test_a_line_separator_inside_a_text_does_not_cut_it(tmp_path: Path) -> None:
    file = tmp_path / "documents.txt"
    file.write_text("one\u2028still one\ntwo", encoding="utf-8")

    documents = read_documents([], file)

    assert documents == ["one\u2028still one", "two"]


def test_standard_input_is_read_when_nothing_else_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("一\n二\n".encode())))

    assert read_documents([], None) == ["一", "二"]


def test_documents_from_two_places_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="expected arguments or --file, got both"):
        read_documents(["one"], tmp_path / "documents.txt")


def test_a_file_that_is_not_utf_8_is_refused_by_line(tmp_path: Path) -> None:
    file = tmp_path / "documents.txt"
    file.write_bytes("一\n".encode() + "二\n".encode("gb18030"))

    with pytest.raises(InvalidRequest, match="line 2 is not"):
        read_documents([], file)


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"nowhere\.txt cannot be read: No such file"):
        read_documents([], tmp_path / "nowhere.txt")
