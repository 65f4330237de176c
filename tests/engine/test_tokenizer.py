"""Rows are what transformers makes of a pair, except that text cannot forge a special token."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from rerankq_worker.model.reading import DocumentTooLong, QueryTooLong, Reading
from rerankq_worker.model.tokenizer import PairTokenizer
from tests.model_dirs import CORPUS

TEXTS = st.text(alphabet=st.sampled_from("pandaeatsbmoo 大熊猫是什么，。\n\t?パン"), max_size=60)
LITERALS = ["<s>", "</s>", "<pad>", "<mask>", "<unk>"]


@pytest.fixture(scope="module")
def tokenizer(tiny_dir: Path) -> PairTokenizer:
    return PairTokenizer.from_model_dir(tiny_dir, max_length_tokens=64)


@pytest.fixture(scope="module")
def reference(tiny_dir: Path) -> Callable[..., list[int]]:
    plain = transformers.AutoTokenizer.from_pretrained(tiny_dir)
    return lambda query, document, **options: plain([query], [document], **options)["input_ids"][0]


@pytest.fixture(scope="module")
def xlmr(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> PairTokenizer:
    """The real vocabulary of 250,002 pieces."""
    directory = tmp_path_factory.mktemp("xlmr")
    (directory / "tokenizer.json").symlink_to(shared / "tokenizer-xlmr" / "tokenizer.json")
    (directory / "config.json").write_text(
        json.dumps({"model_type": "xlm-roberta", "max_position_embeddings": 8194})
    )
    return PairTokenizer.from_model_dir(directory, max_length_tokens=256)


def ids(tokenizer: PairTokenizer, query: str, document: str) -> list[int]:
    return tokenizer.read(Reading(query=query, documents=[document]))[0].token_ids.tolist()


@given(query=TEXTS, document=TEXTS)
@settings(deadline=None)
def test_a_row_is_what_transformers_makes_of_the_pair(
    tokenizer: PairTokenizer, reference: Callable[..., list[int]], query: str, document: str
) -> None:
    expected = reference(query, document)
    if len(expected) <= tokenizer.max_length_tokens:
        assert ids(tokenizer, query, document) == expected


def test_the_real_vocabulary_gives_the_published_ids(shared: Path, xlmr: PairTokenizer) -> None:
    """Two of them cannot agree: a lone U+001F, and a text that spells `<unk>`, which is characters to us."""
    cases = json.loads((shared / "tokenizer-xlmr" / "xlmr_test_vectors.json").read_text(encoding="utf-8"))

    wrong = [case["text"] for case in cases if ids(xlmr, "", case["text"])[3:] != case["ids"][1:]]

    assert len(cases) == 20
    assert [text for text in wrong if "<unk>" not in text] == ["\x1f"]


@pytest.mark.parametrize("literal", LITERALS)
@pytest.mark.parametrize("text", ["{}", "a {} b", "a{}b", "{0}{0}", "panda {}</s></s> forged", "x\n{}"])
def test_text_cannot_forge_a_special_token(tokenizer: PairTokenizer, literal: str, text: str) -> None:
    row = ids(tokenizer, text.format(literal), text.format(literal))

    assert row.count(0) == 1
    assert row.count(2) == 3
    assert 1 not in row
    assert 188 not in row, "<mask>"


@pytest.mark.parametrize("literal", LITERALS)
def test_the_real_vocabulary_cannot_be_forged_either(xlmr: PairTokenizer, literal: str) -> None:
    row = ids(xlmr, "panda", f"bear {literal} {literal}bear")

    assert [row.count(special) for special in (0, 1, 2, 3, 250_001)] == [1, 0, 3, 0, 0]


def test_a_document_is_cut_at_its_end_and_the_query_is_kept(
    tokenizer: PairTokenizer, reference: Callable[..., list[int]]
) -> None:
    query, document = "What is a panda?", "bamboo " * 200

    row = tokenizer.read(Reading(query=query, documents=[document]))[0]

    assert row.token_ids.tolist() == reference(query, document, max_length=64, truncation="only_second")
    assert row.truncated


def test_a_query_is_cut_to_three_quarters_so_that_documents_keep_room(tokenizer: PairTokenizer) -> None:
    row = tokenizer.read(Reading(query="panda " * 300, documents=["bamboo " * 300]))[0]

    end_of_query = row.token_ids.tolist().index(2)
    assert end_of_query - 1 == 48
    assert len(row.token_ids) == 64
    assert row.truncated


def test_every_document_says_for_itself_whether_it_was_cut(tokenizer: PairTokenizer) -> None:
    rows = tokenizer.read(Reading(query="panda", documents=["bear", "bear " * 300, ""]))

    assert [row.truncated for row in rows] == [False, True, False]


def test_a_cap_on_document_tokens_is_kept(tokenizer: PairTokenizer) -> None:
    plain, capped = (
        tokenizer.read(Reading(query="panda", documents=["bear " * 9], max_tokens_per_doc=cap))[0]
        for cap in (None, 5)
    )

    assert capped.truncated
    assert not plain.truncated
    assert capped.token_ids.tolist()[:-1] == plain.token_ids.tolist()[: len(capped.token_ids) - 1]
    document_tokens = len(capped.token_ids) - len(
        tokenizer.read(Reading(query="panda", documents=[""]))[0].token_ids
    )
    assert document_tokens == 5


def test_without_truncation_documents_that_are_too_long_are_named(tokenizer: PairTokenizer) -> None:
    with pytest.raises(DocumentTooLong) as caught:
        tokenizer.read(
            Reading(query="panda", documents=["bear", "bear " * 300, "x", "bamboo " * 300], truncation=False)
        )

    assert caught.value.indices == [1, 3]
    assert str(caught.value.limit) in str(caught.value)


def test_without_truncation_a_query_that_is_too_long_is_refused(tokenizer: PairTokenizer) -> None:
    with pytest.raises(QueryTooLong, match="longer than 48 tokens"):
        tokenizer.read(Reading(query="panda " * 300, documents=["bear"], truncation=False))


def test_a_row_exactly_at_the_limit_is_not_cut(tokenizer: PairTokenizer) -> None:
    frame = len(tokenizer.read(Reading(query="a", documents=[""]))[0].token_ids)
    fitting = next(
        "bear " * n
        for n in range(1, 99)
        if len(tokenizer.read(Reading(query="a", documents=["bear " * n]))[0].token_ids) >= 62
    )
    room = len(tokenizer.read(Reading(query="a", documents=[fitting]))[0].token_ids) - frame

    assert not tokenizer.read(
        Reading(query="a", documents=[fitting], max_tokens_per_doc=room, truncation=False)
    )[0].truncated
    assert tokenizer.read(Reading(query="a", documents=[fitting], max_tokens_per_doc=room - 1))[0].truncated


@pytest.mark.parametrize(
    "unit",
    [CORPUS[0] + " ", CORPUS[3], "a" * 3000 + " b ", " " * 5000 + "panda", CORPUS[5] + "\n"],
    ids=["english", "chinese without a blank", "long words", "runs of blanks", "many scripts"],
)
def test_a_huge_document_keeps_the_tokens_it_would_keep_whole(tokenizer: PairTokenizer, unit: str) -> None:
    document = unit * (200_000 // len(unit))
    whole = tokenizer._tokenizer.encode(document, add_special_tokens=False).ids

    row = tokenizer.read(Reading(query="panda", documents=[document]))[0].token_ids.tolist()

    head = len(tokenizer.read(Reading(query="panda", documents=[""]))[0].token_ids) - 1
    assert row[head:-1] == whole[: 64 - head - 1]


def test_a_chinese_document_cut_in_mid_sentence_keeps_the_tokens_of_the_real_vocabulary(
    shared: Path, xlmr: PairTokenizer
) -> None:
    import gzip

    with gzip.open(
        shared / "jobs" / "hard_zh_cmrc_drcd_bm25_top30.jsonl.gz", "rt", encoding="utf-8"
    ) as lines:
        texts = [
            "".join("".join(d["text"].split()) for d in json.loads(next(lines))["documents"])
            for _ in range(12)
        ]
    assert all(len(text) > 3 * 320 * 8 for text in texts), "long enough to be cut before tokenizing"

    for text, row in zip(texts, xlmr.read(Reading(query="熊猫", documents=texts)), strict=True):
        head = len(xlmr.read(Reading(query="熊猫", documents=[""]))[0].token_ids) - 1
        whole = xlmr._tokenizer.encode(text, add_special_tokens=False).ids
        assert row.token_ids.tolist()[head:-1] == whole[: 256 - head - 1]


def test_the_length_is_capped_at_what_the_positions_hold(tmp_path: Path, tiny_dir: Path) -> None:
    (tmp_path / "tokenizer.json").symlink_to(tiny_dir / "tokenizer.json")
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "xlm-roberta", "max_position_embeddings": 66})
    )

    assert PairTokenizer.from_model_dir(tmp_path, max_length_tokens=1024).max_length_tokens == 64


LONG = {
    "english": " ".join(CORPUS),
    "chinese": CORPUS[3] * 9,
    "ligatures, wide letters, accents": "ﬁne ＰＡＮＤＡ e\u0301te\u0301 ½ ㈜ " * 20,
    "emoji": "a panda 🐼👩‍👩‍👧 eats 🎋 " * 20,
    "blanks": "panda \n\t  bear\u00a0\u200b " * 40,
}


@pytest.fixture(scope="module", params=["small alphabet", "bert", "modernbert", "Qwen3-Reranker-template"])
def any_kind(request: pytest.FixtureRequest, tokenizer: PairTokenizer, shared: Path) -> PairTokenizer:
    """Unigram, WordPiece and byte-level BPE; each with its own normalizer."""
    if request.param == "small alphabet":
        return tokenizer
    library = Tokenizer.from_file(str(shared / "models" / request.param / "tokenizer.json"))
    return PairTokenizer(library, [[1], [2], [3]], 64, second_segment=request.param == "bert")


@pytest.mark.parametrize("document", LONG.values(), ids=LONG)
def test_the_windows_of_a_document_hold_all_its_tokens_and_tell_their_characters(
    any_kind: PairTokenizer, document: str
) -> None:
    query, whole = "What is a panda?", any_kind._tokenizer.encode(document, add_special_tokens=False)
    [empty] = any_kind.read(Reading(query=query, documents=[""]))
    head = len(empty.token_ids) - 1

    rows = any_kind.read(Reading(query=query, documents=["bear", document], windows=True))[1:]

    spans = [row.span for row in rows if row.span is not None]
    assert [(span.index, span.total) for span in spans] == [(n, len(rows)) for n in range(len(rows))]
    assert len(rows) > 1
    assert {(row.document, row.truncated) for row in rows} == {(1, False)}
    assert (spans[0].start, spans[-1].end) == (whole.offsets[0][0], whole.offsets[-1][1])
    reached = 0
    for row, span in zip(rows, spans, strict=True):
        kept = row.token_ids[head:-1]
        text = np.where(kept < 0, ~kept, kept).tolist()
        places = [n for n in range(reached + 1) if whole.ids[n : n + len(text)] == text]
        first = next(n for n in places if whole.offsets[n][0] == span.start)
        assert span.end == whole.offsets[first + len(text) - 1][1]
        reached = first + len(text)
        alone = any_kind._tokenizer.encode(document[span.start : span.end], add_special_tokens=False).ids
        assert set(text[2:-2]) <= {*alone, *text[:2], *text[-2:]}, "but for a few at the border"
    assert reached == len(whole.ids)


@pytest.mark.parametrize(
    ("asked", "windows", "truncated"),
    [
        ({}, 1, True),
        ({"windows": True}, 6, False),
        ({"windows": True, "max_windows_per_doc": 2}, 2, True),
        ({"windows": True, "max_tokens_per_doc": 60}, 2, True),
        ({"windows": True, "max_tokens_per_doc": 10}, 1, True),
        ({"windows": True, "truncation": False}, 6, False),
    ],
    ids=str,
)
def test_a_long_document_is_read_as_far_as_it_is_asked_for(
    tokenizer: PairTokenizer, asked: dict[str, Any], windows: int, truncated: bool
) -> None:
    rows = tokenizer.read(Reading(query="panda", documents=["bear " * 300, "bear"], **asked))

    assert [row.document for row in rows] == [0] * windows + [1]
    assert {row.truncated for row in rows if row.document == 0} == {truncated}
    assert rows[-1].span is None


def test_without_truncation_a_document_longer_than_its_windows_is_refused(tokenizer: PairTokenizer) -> None:
    reading = Reading(
        query="panda",
        documents=["bear", "bear " * 300],
        truncation=False,
        windows=True,
        max_windows_per_doc=2,
    )

    with pytest.raises(DocumentTooLong, match=r"documents \[1\] are longer than \d+ tokens"):
        tokenizer.read(reading)


def test_a_huge_document_is_read_whole(tokenizer: PairTokenizer) -> None:
    document = (CORPUS[0] + " ") * (300_000 // len(CORPUS[0]))

    rows = tokenizer.read(Reading(query="panda", documents=[document], windows=True))

    assert rows[-1].span is not None
    assert len(document) - 2 <= rows[-1].span.end <= len(document)


@pytest.mark.parametrize("cap", [0, -1])
def test_a_cap_below_one_token_is_refused(tokenizer: PairTokenizer, cap: int) -> None:
    with pytest.raises(ValueError, match="max_tokens_per_doc"):
        tokenizer.read(Reading(query="panda", documents=["bear"], max_tokens_per_doc=cap))


def test_threads_share_one_tokenizer(tokenizer: PairTokenizer) -> None:
    jobs = [Reading(query=f"panda {n}", documents=[f"bear {n} " * (n % 7 + 1), "大熊猫"]) for n in range(64)]
    alone = [[row.token_ids.tolist() for row in tokenizer.read(job)] for job in jobs]

    with ThreadPoolExecutor(max_workers=8) as threads:
        together = list(threads.map(lambda job: tokenizer.read(job), jobs))

    assert [[row.token_ids.tolist() for row in rows] for rows in together] == alone
