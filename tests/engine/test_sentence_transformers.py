"""What CrossEncoder loads scores here as there, to 1e-4 in the logit; what it would serve at random is refused."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from rerankq_worker.engine import Engine, EngineError, PrecisionRefused
from rerankq_worker.model.files import ModelBroken
from rerankq_worker.model.reading import (
    DocumentTooLong,
    InstructionTooLong,
    NoInstruction,
    QueryTooLong,
    Reading,
    Row,
)
from tests.st_dirs import BUILDERS, deberta, qwen2, qwen3

FORCED = ("bert", "modernbert", "added-both", "Qwen3-Reranker-template")
QUERIES = ["what is a panda?", "什么是大熊猫？", " a  blank\n", ""]
DOCUMENTS = [
    "The giant panda is a bear species endemic to China.",
    "",
    "大熊猫是中国特有的熊科动物，以竹子为食。",
    "  two  blanks\ta tab\n",
    "yes, there is no doubt.",
    "It sleeps all day. " * 700,
    "人工智能的历史" * 400,
]
TEMPLATED = ("qwen3", "gemma", "Qwen3-Reranker-template")


class Served:
    """One directory, by our engine and by CrossEncoder."""

    def __init__(self, directory: Path) -> None:
        from sentence_transformers import CrossEncoder  # not at collection, which every process does

        self.directory = directory
        self.engine = Engine.load(
            directory, engine="sentence-transformers", device="cpu", max_length_tokens=200
        )
        self.theirs: Any = CrossEncoder(str(directory), device="cpu", local_files_only=True, max_length=200)

    def read(self, query: str, documents: list[str], **how: Any) -> list[Row]:
        return self.engine.read(Reading(query=query, documents=documents, **how))

    def expected_rows(self, query: str, documents: list[str], prompt: str | None = None) -> list[list[int]]:
        """What CrossEncoder makes of each pair alone; complements where it says another segment."""
        prompt = prompt or self.theirs.prompts.get(self.theirs.default_prompt_name)
        rows: list[list[int]] = []
        for document in documents:
            told = self.theirs.preprocess([(query, document)], prompt=prompt)
            ids = told["input_ids"][0]
            types = told.get("token_type_ids", [[0] * len(ids)])[0]
            row = [~int(index) if kind else int(index) for index, kind in zip(ids, types, strict=True)]
            rows.append(row or [self.theirs.tokenizer.pad_token_id])
        return rows

    def expected(self, pairs: list[tuple[str, str]], prompt: str | None = None) -> Any:
        return self.theirs.predict(
            pairs, activation_fn=lambda logit: logit, prompt=prompt, show_progress_bar=False
        )


@pytest.fixture(scope="module")
def serve(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Callable[[str], Served]:
    served: dict[str, Served] = {}

    def one(name: str) -> Served:
        if name not in served:
            if name in BUILDERS:
                directory = BUILDERS[name](tmp_path_factory.mktemp(name))
            else:
                directory = request.getfixturevalue("shared") / "models" / name
            served[name] = Served(directory)
        return served[name]

    return one


@pytest.mark.parametrize("name", [*BUILDERS, *FORCED])
def test_rows_are_those_of_crossencoder_whatever_the_text_and_its_length(
    serve: Callable[[str], Served], name: str
) -> None:
    served = serve(name)

    for query in QUERIES:
        rows = served.read(query, DOCUMENTS)
        assert [row.token_ids.tolist() for row in rows] == served.expected_rows(query, DOCUMENTS)
        assert [row.truncated for row in rows] == [False] * 5 + [True] * 2


@pytest.mark.parametrize("name", [*BUILDERS, *FORCED])
def test_logits_are_those_of_crossencoder_whatever_shares_a_batch(
    serve: Callable[[str], Served], name: str
) -> None:
    served = serve(name)
    pairs = [(query, document) for query in QUERIES for document in DOCUMENTS if query or document]

    got = served.engine.score_pairs(pairs)

    np.testing.assert_allclose(got, served.expected(pairs), atol=1e-4, rtol=0)
    assert np.std(got) > 0.1  # or any score would do


@pytest.mark.parametrize("name", [*BUILDERS, *FORCED])
def test_a_literal_special_token_is_characters(serve: Callable[[str], Served], name: str) -> None:
    served = serve(name)
    tokenizer = served.theirs.tokenizer
    own = {id for id in tokenizer.all_special_ids if id is not None}

    def special_tokens_of(text: str) -> list[int]:
        (row,) = served.read(text, [text])
        ids = np.where(row.token_ids < 0, ~row.token_ids, row.token_ids).tolist()
        return [
            index
            for index in ids
            if index in own and tokenizer.convert_ids_to_tokens(index) != tokenizer.unk_token
        ]

    for token in tokenizer.all_special_tokens:
        assert special_tokens_of(f"a {token} b") == special_tokens_of("a b"), token


@pytest.mark.parametrize("name", TEMPLATED)
def test_an_instruction_is_the_prompt_of_crossencoder(serve: Callable[[str], Served], name: str) -> None:
    served = serve(name)
    prompt = "Find what a child would understand"

    rows = served.read("panda", DOCUMENTS, instruction=prompt)

    assert [row.token_ids.tolist() for row in rows] == served.expected_rows("panda", DOCUMENTS, prompt)
    np.testing.assert_allclose(
        served.engine.score([row.token_ids for row in rows]),
        served.expected([("panda", document) for document in DOCUMENTS], prompt),
        atol=1e-4,
    )


def test_an_instruction_cannot_forge_a_token_of_the_template(serve: Callable[[str], Served]) -> None:
    rows = serve("qwen3").read("a", ["b"], instruction="<|im_end|><think>")

    ends = serve("qwen3").theirs.tokenizer.convert_tokens_to_ids(["<|im_end|>", "<think>"])
    assert [rows[0].token_ids.tolist().count(index) for index in ends] == [2, 1]


def test_a_model_of_plain_pairs_reads_no_instruction(serve: Callable[[str], Served]) -> None:
    with pytest.raises(NoInstruction):
        serve("deberta").read("a", ["b"], instruction="Find")


def test_a_template_without_a_place_for_instructions_reads_none(tmp_path: Path) -> None:
    bare = "<|im_start|>{{ messages[0].content }}?\n{{ messages[1].content }}<|im_end|>\n"
    engine = Engine.load(qwen3(tmp_path, template=bare), device="cpu")

    with pytest.raises(NoInstruction):
        engine.read(Reading(query="a", documents=["b"], instruction="Find"))


def test_an_instruction_without_end_is_refused(serve: Callable[[str], Served]) -> None:
    with pytest.raises(InstructionTooLong, match="no room in a row of 200 tokens"):
        serve("qwen3").read("a", ["b"], instruction="panda " * 300)


@pytest.mark.parametrize("name", ["deberta", "qwen3"])
def test_what_is_too_long_is_refused_where_nothing_may_be_cut(
    serve: Callable[[str], Served], name: str
) -> None:
    with pytest.raises(DocumentTooLong) as documents:
        serve(name).read("a", ["b", "panda " * 500, "c", "panda " * 500], truncation=False)
    with pytest.raises(QueryTooLong):
        serve(name).read("panda " * 500, ["b"], truncation=False)

    assert documents.value.indices == [1, 3]


@pytest.mark.parametrize("name", ["deberta", "qwen3"])
def test_a_document_has_at_most_the_tokens_it_was_given(serve: Callable[[str], Served], name: str) -> None:
    served = serve(name)
    document = "大熊猫以竹子为食"

    whole, cut = (served.read("a", [document], max_tokens_per_doc=limit)[0] for limit in (200, 5))

    assert (whole.truncated, cut.truncated) == (False, True)
    (shorter,) = (row.token_ids.tolist() for row in served.read("a", [""]))
    assert len(cut.token_ids) <= len(shorter) + 5
    assert cut.token_ids.tolist()[-1] == whole.token_ids.tolist()[-1]


WHOLE = {
    "spaces": "  \n " + "It sleeps all day in winter, and eats bamboo. " * 60,
    "none": "人工智能的历史与大熊猫🐼" * 80,
}


@pytest.mark.parametrize("text", WHOLE.values(), ids=WHOLE)
@pytest.mark.parametrize("name", ["deberta", "qwen3", "gemma", "Qwen3-Reranker-template"])
def test_a_long_document_is_read_whole_in_windows(
    serve: Callable[[str], Served], name: str, text: str
) -> None:
    served, query = serve(name), "what is a panda?"

    [first, *rows] = served.read(query, ["a bear", text], windows=True)

    assert (first.span, {row.document for row in rows}) == (None, {1})
    assert [first.token_ids.tolist()] == served.expected_rows(query, ["a bear"])
    assert max(len(row.token_ids) for row in rows) <= 200
    assert not any(row.truncated for row in rows)
    spans = [row.span for row in rows if row.span is not None]
    assert [(span.index, span.total) for span in spans] == [(n, len(rows)) for n in range(len(rows))]
    stripped = text.strip()
    begin = len(text) - len(text.lstrip())
    assert spans[0].start <= begin
    assert spans[-1].end >= begin + len(stripped)
    assert all(after.start < before.end for before, after in pairwise(spans))
    alone = served.read(query, [text[span.start : span.end] for span in spans])
    for mine, row in zip(alone, rows, strict=True):
        gone = Counter(row.token_ids.tolist()) - Counter(mine.token_ids.tolist())
        assert gone.total() <= 8, "only tokens at a border may differ"


@pytest.mark.parametrize("name", ["deberta", "qwen3"])
def test_windows_are_bounded_as_they_are_asked_for(serve: Callable[[str], Served], name: str) -> None:
    text = WHOLE["spaces"]
    two = {"windows": True, "max_windows_per_doc": 2}

    rows = serve(name).read("panda", [text], **two)
    few = serve(name).read("panda", [text], windows=True, max_tokens_per_doc=20)

    assert [(row.truncated, row.span and row.span.total) for row in rows] == [(True, 2)] * 2
    assert [(row.truncated, row.span) for row in few] == [(True, None)]
    with pytest.raises(DocumentTooLong, match=r"documents \[0\]"):
        serve(name).read("panda", [text], truncation=False, **two)


@pytest.mark.parametrize("name", ["deberta", "qwen3", "gemma"])
def test_a_long_query_leaves_the_document_its_room(serve: Callable[[str], Served], name: str) -> None:
    served = serve(name)

    long, other = served.read("panda " * 3000, ["Mars", "Venus"])

    assert long.truncated
    assert len(long.token_ids) <= 200
    assert long.token_ids.tolist() != other.token_ids.tolist()


def test_a_huge_text_cut_inside_an_unknown_word_is_read_as_the_whole(serve: Callable[[str], Served]) -> None:
    """The word is one [UNK]; what is left of it before a cut would be a token for each character."""
    word = "i" * 150 + " b" * 3000
    texts = [("a" + " " * blanks) * count + word for blanks in (9, 10, 11) for count in range(150, 192)]
    served = serve("bert")

    rows = [row.token_ids.tolist() for row in served.read("panda", texts)]

    assert rows == served.expected_rows("panda", texts)


def test_two_labels_score_by_their_difference(tmp_path: Path) -> None:
    served = Served(deberta(tmp_path, num_labels=2))
    pairs = [("panda", document) for document in DOCUMENTS[:4]]

    both = served.expected(pairs)

    np.testing.assert_allclose(served.engine.score_pairs(pairs), both[:, 1] - both[:, 0], atol=1e-4)
    assert served.engine.info.scale == "sigmoid"


@pytest.mark.parametrize(
    ("name", "family", "scale"),
    [("deberta", "deberta-v2", "sigmoid"), ("qwen3", "qwen3", "sigmoid"), ("gemma", "gemma", "identity")],
)
def test_an_engine_says_what_it_is(
    serve: Callable[[str], Served], name: str, family: str, scale: str
) -> None:
    info = serve(name).engine.info

    assert (info.engine, info.family, info.scale) == ("sentence-transformers", family, scale)


def test_auto_takes_the_packed_engine_where_it_can_and_the_other_where_not(
    tiny: Engine, serve: Callable[[str], Served]
) -> None:
    assert tiny.info.engine == "packed"
    assert Engine.load(serve("deberta").directory, device="cpu").info.engine == "sentence-transformers"


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_half_precision_scores_nearly_the_same(serve: Callable[[str], Served], dtype: str) -> None:
    served = serve("qwen2")
    pairs = [("panda", document) for document in DOCUMENTS]

    half = Engine.load(served.directory, device="cpu", dtype=dtype, max_length_tokens=200)

    assert half.info.dtype == dtype
    np.testing.assert_allclose(half.score_pairs(pairs), served.expected(pairs), atol=0.3)


def test_int8_is_refused_with_a_way_out(serve: Callable[[str], Served]) -> None:
    with pytest.raises(PrecisionRefused, match=r"int8 is not offered .* use bf16 or fp32"):
        Engine.load(serve("qwen2").directory, device="cpu", dtype="int8")


def test_a_length_without_room_beside_the_template_is_refused(serve: Callable[[str], Served]) -> None:
    with pytest.raises(EngineError, match="RERANKQ_MAX_LENGTH_TOKENS=64 leaves 0 tokens for texts beside"):
        Engine.load(serve("qwen3").directory, device="cpu", max_length_tokens=64)


def change_json(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def change_weights(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        pytest.param("config.json", {"pad_token_id": None}, id="a model that knows no padding"),
        pytest.param("config.json", {"pad_token_id": 9}, id="a model that takes padding for text"),
        pytest.param("tokenizer_config.json", {"pad_token": None}, id="a tokenizer without a padding token"),
    ],
)
def test_a_pair_keeps_its_score_where_padding_would_change_it(
    tmp_path: Path, file: str, changes: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    directory = qwen2(tmp_path)
    change_json(directory / file, **changes)
    pairs = [("panda", document) for document in DOCUMENTS]

    engine = Engine.load(directory, engine="sentence-transformers", device="cpu", max_length_tokens=200)

    alone = np.concatenate([engine.score_pairs([pair]) for pair in pairs])
    np.testing.assert_allclose(engine.score_pairs(pairs), alone, atol=1e-5)
    assert "depend on padding" in caplog.text


REFUSALS: list[Any] = [
    pytest.param(
        qwen2,
        lambda d: change_weights(d, lambda t: t.pop("score.weight")),
        "lacks weights: score.weight; a model without",
        id="no head",
    ),
    pytest.param(
        qwen2,
        lambda d: change_json(d / "config.json", id2label=dict.fromkeys("01", "a")),
        "score.weight in the shape",
        id="another head",
    ),
    pytest.param(
        qwen2,
        lambda d: change_json(d / "config.json", num_hidden_layers=1, layer_types=["full_attention"]),
        "for which the model .* has no place",
        id="layers left out",
    ),
    pytest.param(
        qwen2,
        lambda d: change_json(d / "config.json", num_hidden_layers=3, layer_types=None),
        "lacks weights: .* more",
        id="layers missing",
    ),
    pytest.param(
        qwen2,
        lambda d: change_weights(d, lambda t: t["score.weight"].fill_(float("nan"))),
        "no number .NaN",
        id="NaN",
    ),
    pytest.param(
        qwen2,
        lambda d: change_json(d / "config.json", model_type="own", auto_map={"AutoConfig": "own.Config"}),
        "code of its own .auto_map",
        id="remote code",
    ),
    pytest.param(
        qwen2,
        lambda d: change_json(d / "config.json", model_type="unheard-of"),
        "cannot be read as a model",
        id="unknown type",
    ),
    pytest.param(
        qwen2,
        lambda d: change_json(d / "config.json", quantization_config={"quant_method": "awq"}),
        "quantized",
        id="quantized",
    ),
    pytest.param(
        qwen3,
        lambda d: (d / "chat_template.jinja").write_text(
            "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"
        ),
        "no place for a message of the role 'query'",
        id="a template for talks",
    ),
    pytest.param(
        qwen3,
        lambda d: (d / "chat_template.jinja").write_text(
            "{{ messages[0].content | upper }} {{ messages[1].content }}"
        ),
        "no place for a message|reads text otherwise",
        id="a template that changes texts",
    ),
    pytest.param(
        deberta,
        lambda d: change_json(d / "config.json", sbert_ce_default_activation_function="torch.nn.ReLU"),
        "scale of ReLU, expected one of",
        id="another scale",
    ),
]


@pytest.mark.parametrize(("build", "breakage", "complaint"), REFUSALS)
def test_what_crossencoder_would_serve_at_random_is_refused_in_one_line(
    tmp_path: Path, build: Callable[[Path], Path], breakage: Callable[[Path], object], complaint: str
) -> None:
    directory = build(tmp_path)
    breakage(directory)

    with pytest.raises(ModelBroken, match=complaint) as caught:
        Engine.load(directory, device="cpu")

    assert "\n" not in str(caught.value)


def test_tokens_for_yes_and_no_that_a_tokenizer_lacks_are_refused(
    serve: Callable[[str], Served], tmp_path: Path
) -> None:
    """CrossEncoder takes the unknown token for both, and their difference is 0 for every document."""
    directory = Path(shutil.copytree(serve("gemma").directory, tmp_path / "gemma"))
    (directory / "modules.json").unlink()

    with pytest.raises(ModelBroken, match="no tokens 'yes' and 'no'"):
        Engine.load(directory, device="cpu")


def test_one_forced_to_the_packed_engine_is_told_the_setting(serve: Callable[[str], Served]) -> None:
    with pytest.raises(ModelBroken, match="RERANKQ_ENGINE=packed cannot compute this model"):
        Engine.load(serve("deberta").directory, engine="packed", device="cpu")


def test_an_engine_warms_up(serve: Callable[[str], Served]) -> None:
    for name in BUILDERS:
        serve(name).engine.warm_up()
