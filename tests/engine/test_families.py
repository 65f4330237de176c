"""Every packed family scores as CrossEncoder does, reads text as it does, and lets no text forge its frame."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file

from rerankq_worker.engine import Engine, linears
from rerankq_worker.engine.attention import padded
from rerankq_worker.engine.linears import plain_linear
from rerankq_worker.engine.loading import FORWARDS, load_reference
from rerankq_worker.engine.precision import EXACT
from rerankq_worker.model.family import FAMILIES
from rerankq_worker.model.files import ModelBroken, family_of
from rerankq_worker.model.reading import Reading
from rerankq_worker.model.tokenizer import PairTokenizer
from tests.engine.definition import PAIRS
from tests.model_dirs import CORPUS, TOKENIZERS, build_model_dir, word_piece_tokenizer

CPU = torch.device("cpu")
LENGTH = 64
ORDINARY = {
    name: pair
    for name, pair in PAIRS.items()
    if name not in ("literal special tokens", "query longer than its share")
}
PLAIN_PAIRS = [
    *ORDINARY.values(),
    ("What is it? ", " two\n\n  blanks"),
    ("ÉTUDE naïve", "x" * 99 + " " + "y" * 101),
]
LITERALS = ["[CLS]", "[SEP]", "[MASK]", "[PAD]", "[UNK]", "<s>", "</s>", "<pad>", "<mask>", "<unk>"]
FORGED = [
    text for literal in LITERALS for text in (f"a {literal}b {literal}", f"{literal}{literal}\n{literal}")
]


@dataclass(frozen=True, slots=True)
class Case:
    """What a directory of a family says otherwise."""

    family: str
    config: dict[str, Any]
    tokenizer_config: dict[str, Any]
    word_pieces: dict[str, Any]


def case(
    family: str,
    *,
    said: dict[str, Any] | None = None,
    pieces: dict[str, Any] | None = None,
    **config: Any,
) -> Case:
    return Case(family, config, said or {}, pieces or {})


AS_IT_IS = {"tokenizer_class": "PreTrainedTokenizerFast"}
TOLD_SEGMENTS = {**AS_IT_IS, "model_input_names": ["input_ids", "token_type_ids", "attention_mask"]}
NO_SEGMENTS = ["input_ids", "attention_mask"]
CASED = {"lowercase": False}
CASES = {
    **{family: case(family) for family in TOKENIZERS},
    "bert, cased": case("bert", said={"do_lower_case": False}, pieces=CASED),
    "bert, accents kept": case("bert", said={"strip_accents": False}, pieces={"strip_accents": False}),
    "bert, Chinese unsplit": case(
        "bert", said={"tokenize_chinese_chars": False}, pieces={"handle_chinese_chars": False}
    ),
    "bert, its file as it is": case("bert", said=AS_IT_IS),
    "bert, its file with segments": case("bert", said=TOLD_SEGMENTS),
    "bert without segments": case("bert", said={"model_input_names": NO_SEGMENTS}),
    "bert of one segment": case("bert", type_vocab_size=1, said={"model_input_names": NO_SEGMENTS}),
    "bert of four segments": case("bert", type_vocab_size=4),
    "bert, other activation": case("bert", hidden_act="gelu_new"),
    "bert, two labels": case("bert", num_labels=2),
    "bert, one layer": case("bert", num_hidden_layers=1),
    "roberta, its file as it is": case("roberta", said=AS_IT_IS),
    "roberta, two labels": case("roberta", num_labels=2),
    "roberta, padding elsewhere": case("roberta", pad_token_id=3, max_position_embeddings=68),
    "xlm-roberta of two segments": case("xlm-roberta", type_vocab_size=2, pad_token_id=1),
    "electra, words as wide as layers": case("electra", embedding_size=32),
    "electra, relu": case("electra", hidden_act="relu"),
    "distilbert, read as bert's": case("distilbert", said={"tokenizer_class": "BertTokenizerFast"}),
    "distilbert, silu": case("distilbert", activation="silu"),
    "modernbert, small windows": case("modernbert", local_attention=8),
    "modernbert, the mean of all tokens": case("modernbert", classifier_pooling="mean", norm_bias=True),
}


def build(directory: Path, what: Case) -> Path:
    tokenizer = directory.with_name(f"{directory.name}.tokenizer.json")
    if what.word_pieces:
        word_piece_tokenizer(**what.word_pieces).save(str(tokenizer))
    build_model_dir(
        directory,
        "short",
        what.family,
        tokenizer_json=tokenizer if what.word_pieces else None,
        **{
            "initializer_range": 0.4,
            **what.config,
        },  # with 0.6 transformers itself is 1e-4 off fp64 now and then
    )
    change(directory, "tokenizer_config.json", **what.tokenizer_config)
    return directory


def change(directory: Path, name: str, **changes: Any) -> None:
    file = directory / name
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Directories by the name of their case, each made once."""
    made: dict[str, Path] = {}

    def directory(name: str) -> Path:
        if name not in made:
            made[name] = build(tmp_path_factory.mktemp("families") / "model", CASES[name])
        return made[name]

    return directory


def cross_encoder_logits(directory: Path, pairs: list[tuple[str, str]], length: int = LENGTH) -> Any:
    from sentence_transformers import CrossEncoder  # not at collection, which every process does

    encoder = CrossEncoder(str(directory), device="cpu", local_files_only=True, max_length=length)
    logits: Any = encoder.predict(pairs, activation_fn=lambda logit: logit, show_progress_bar=False)
    return logits if logits.ndim == 1 else logits[:, 1] - logits[:, 0]


@pytest.mark.parametrize("name", CASES)
def test_scores_are_those_of_cross_encoder(built: Callable[[str], Path], name: str) -> None:
    engine = Engine.load(built(name), device="cpu", dtype="fp32", max_length_tokens=LENGTH)

    expected = cross_encoder_logits(built(name), PLAIN_PAIRS)

    assert np.std(expected) > 0.1
    np.testing.assert_allclose(engine.score_pairs(PLAIN_PAIRS), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["bert", "added-both", "modernbert"])
def test_scores_of_a_shared_directory_are_those_of_cross_encoder(shared: Path, name: str) -> None:
    directory = shared / "models" / name

    logits = Engine.load(directory, device="cpu", max_length_tokens=512).score_pairs(PLAIN_PAIRS)

    np.testing.assert_allclose(logits, cross_encoder_logits(directory, PLAIN_PAIRS, 512), atol=1e-4, rtol=0)


def test_every_family_has_a_model_to_be_held_to_crossencoder() -> None:
    assert {family.model_type for family in FAMILIES} == set(TOKENIZERS)


@pytest.mark.parametrize("family", TOKENIZERS)
@pytest.mark.parametrize("dtype", ["fp16", "bf16", "int8"])
def test_every_precision_computes_every_family(built: Callable[[str], Path], family: str, dtype: str) -> None:
    if dtype == "int8" and not linears.can_compute_int8():
        pytest.skip("this processor or this torch has no int8 product")
    plain, rounded = (
        Engine.load(built(family), device="cpu", dtype=kind, max_length_tokens=LENGTH)
        for kind in ("fp32", dtype)
    )

    expected = plain.score_pairs(PLAIN_PAIRS)
    off = np.abs(expected - rounded.score_pairs(PLAIN_PAIRS)).mean() / expected.std()
    assert off < {"fp16": 0.01, "bf16": 0.15, "int8": 0.4}[dtype]


@pytest.mark.parametrize("family", TOKENIZERS)
def test_what_a_card_would_run_computes_the_same(built: Callable[[str], Path], family: str) -> None:
    """Plain linears and padded attention; and its exact arithmetic, on the same weights."""
    engine = Engine.load(built(family), device="cpu", max_length_tokens=LENGTH)
    rows = [engine.tokenizer.read(Reading(query=q, documents=[d]))[0].token_ids for q, d in PLAIN_PAIRS]
    rows.sort(key=len)
    rows = [rows[0], *(row for row in rows if len(row) % 32 == 0)]  # no fillers, which cards have none of
    source = load_reference(built(family))
    record = family_of(built(family))
    model = FORWARDS[record.forward](source, record, CPU, EXACT, plain_linear, padded)

    exact = [model.exactly(CPU, [row]).item() for row in rows]

    np.testing.assert_allclose(exact, engine.score(rows), atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", TOKENIZERS)
def test_no_text_forges_the_frame(built: Callable[[str], Path], family: str) -> None:
    tokenizer = PairTokenizer.from_model_dir(built(family), LENGTH)
    theirs: Any = transformers.AutoTokenizer.from_pretrained(built(family))
    special = {theirs.cls_token_id, theirs.sep_token_id, theirs.pad_token_id, theirs.mask_token_id}
    frame = [token for token in theirs("a", "b")["input_ids"] if token in special]

    for text in FORGED:
        assert [token for token in ids(tokenizer, text, "b" + text) if token in special] == frame, text


def ids(tokenizer: PairTokenizer, query: str, document: str) -> list[int]:
    """A row without its segments."""
    (row,) = tokenizer.read(Reading(query=query, documents=[document]))
    return np.where(row.token_ids < 0, ~row.token_ids, row.token_ids).tolist()


@pytest.mark.parametrize("family", ["roberta", "bert", "electra", "distilbert", "modernbert"])
def test_a_literal_special_token_is_read_as_its_characters(built: Callable[[str], Path], family: str) -> None:
    """Exactly as transformers splits it when told to; Unigram finds its pieces even then."""
    theirs: Any = transformers.AutoTokenizer.from_pretrained(built(family), split_special_tokens=True)
    tokenizer = PairTokenizer.from_model_dir(built(family), LENGTH)

    rows = [ids(tokenizer, text, "b") for text in FORGED]

    assert rows == theirs(FORGED, ["b"] * len(FORGED))["input_ids"]


@pytest.mark.parametrize("family", ["roberta", "camembert", "bert", "modernbert"])
@pytest.mark.parametrize(
    "unit",
    [
        CORPUS[0] + " ",
        CORPUS[3],
        "a" * 3000 + " b ",
        "panda" * 17 + "☃ ",
        ("e\u0301" * 97 + "☃ panda "),
        " " * 5000 + "panda",
        CORPUS[5] + "\n",
    ],
    ids=[
        "english",
        "chinese without a blank",
        "long words",
        "words unknown at their end",
        "accents, then unknown",
        "runs of blanks",
        "many scripts",
    ],
)
@pytest.mark.parametrize("shift", [0, 50])
def test_a_huge_document_keeps_the_tokens_it_would_keep_whole(
    built: Callable[[str], Path], family: str, unit: str, shift: int
) -> None:
    tokenizer = PairTokenizer.from_model_dir(built(family), LENGTH)
    theirs: Any = transformers.AutoTokenizer.from_pretrained(built(family))
    document = "x" * shift + " " + unit * (30_000 // len(unit))

    whole = theirs("panda", document, max_length=tokenizer.max_length_tokens, truncation="only_second")
    assert ids(tokenizer, "panda", document) == whole["input_ids"]


def template(*pieces: str, **ids: int) -> dict[str, Any]:
    """A TemplateProcessing: `$A:0` and `$B:1` are texts, others tokens."""
    pair: list[dict[str, Any]] = []
    for name, segment in (piece.rsplit(":", 1) for piece in pieces):
        kind = "Sequence" if name.startswith("$") else "SpecialToken"
        pair.append({kind: {"id": name.removeprefix("$"), "type_id": int(segment)}})
    known = {name: {"id": name, "ids": [index], "tokens": [name]} for name, index in ids.items()}
    single = [{"Sequence": {"id": "A", "type_id": 0}}]
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": known}


BERTS = {"[CLS]": 2, "[SEP]": 3, "[MASK]": 4}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
FRAMES = {
    "in a sequence": {
        "type": "Sequence",
        "processors": [BYTES, template("[CLS]:0", "$A:0", "[SEP]:0", "$B:1", "[SEP]:1", **BERTS)],
    },
    "one separator": template("[CLS]:0", "$A:0", "[SEP]:0", "$B:1", **BERTS),
    "three separators": template(
        "[CLS]:0", "$A:0", "[SEP]:0", "[SEP]:1", "[MASK]:0", "$B:1", "[SEP]:0", **BERTS
    ),
    "the document of the first segment": template("[CLS]:0", "$A:0", "[SEP]:1", "$B:0", "[SEP]:1", **BERTS),
    "no marks": template("$A:0", "$B:1"),
    "of RoBERTa": {
        "type": "RobertaProcessing",
        "sep": ["[SEP]", 3],
        "cls": ["[CLS]", 2],
        "trim_offsets": True,
        "add_prefix_space": False,
    },
    "of BERT": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
    "none": None,
}


@pytest.mark.parametrize("processor", FRAMES.values(), ids=FRAMES)
def test_a_pair_is_framed_as_its_file_says(tmp_path: Path, processor: dict[str, Any] | None) -> None:
    directory = build(tmp_path / "model", case("bert", said=TOLD_SEGMENTS))
    change(directory, "tokenizer.json", post_processor=processor)

    logits = Engine.load(directory, device="cpu", max_length_tokens=LENGTH).score_pairs(PLAIN_PAIRS[:4])

    np.testing.assert_allclose(logits, cross_encoder_logits(directory, PLAIN_PAIRS[:4]), atol=1e-4, rtol=0)


NO_FRAMES = {
    "document first": template("[CLS]:0", "$B:0", "[SEP]:0", "$A:1", **BERTS),
    "query twice": template("$A:0", "[SEP]:0", "$A:0", "$B:1", **BERTS),
    "a third segment": template("[CLS]:0", "$A:0", "[SEP]:2", "$B:1", **BERTS),
}


@pytest.mark.parametrize("processor", NO_FRAMES.values(), ids=NO_FRAMES)
def test_a_frame_that_no_row_can_hold_is_refused(tmp_path: Path, processor: dict[str, Any]) -> None:
    directory = build(tmp_path / "model", case("bert", said=TOLD_SEGMENTS))
    change(directory, "tokenizer.json", post_processor=processor)

    with pytest.raises(ModelBroken, match=r"tokenizer\.json"):
        PairTokenizer.from_model_dir(directory, LENGTH)


def test_ids_of_a_frame_that_contradict_the_file_are_refused(tmp_path: Path) -> None:
    directory = build(tmp_path / "model", case("bert", said=TOLD_SEGMENTS))
    change(
        directory,
        "tokenizer.json",
        post_processor={"type": "BertProcessing", "sep": ["[SEP]", 4], "cls": ["[CLS]", 2]},
    )

    with pytest.raises(ModelBroken, match=r"'\[SEP\]' gets id 3 where a file says 4"):
        PairTokenizer.from_model_dir(directory, LENGTH)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_encoder_without_its_head_gives_vectors(tmp_path: Path, family: Any) -> None:
    directory = build_model_dir(tmp_path / "model", "short", family.model_type)
    file = directory / "model.safetensors"
    body = {name: tensor for name, tensor in load_file(file).items() if "classifier" not in name}
    save_file(body, file, {"format": "pt"})

    with pytest.raises(ModelBroken, match="gives vectors, not scores"):
        Engine.load(directory, device="cpu", max_length_tokens=LENGTH)


@pytest.mark.parametrize("names", ["of jina-like", "of flash-attn"])
def test_weights_by_the_names_of_flash_attn_are_those_of_transformers(tmp_path: Path, names: str) -> None:
    directory = build_model_dir(tmp_path / "model", "short")
    expected = Engine.load(directory, device="cpu", max_length_tokens=LENGTH).score_pairs(PLAIN_PAIRS)
    file = directory / "model.safetensors"
    save_file(of_flash_attn(load_file(file), renames_all=names == "of flash-attn"), file, {"format": "pt"})
    change(directory, "config.json", auto_map={"AutoModelForSequenceClassification": "modeling.Theirs"})

    logits = Engine.load(directory, device="cpu", max_length_tokens=LENGTH).score_pairs(PLAIN_PAIRS)

    assert logits.tolist() == expected.tolist()


def of_flash_attn(tensors: dict[str, Any], *, renames_all: bool) -> dict[str, Any]:
    """As remote code holds them, which never runs: query, key and value in one, layers numbered elsewhere."""
    theirs = {
        ".embeddings.LayerNorm.": ".emb_ln.",
        ".attention.output.dense.": ".mixer.out_proj.",
        ".attention.output.LayerNorm.": ".norm1.",
        ".intermediate.dense.": ".mlp.fc1.",
        ".output.dense.": ".mlp.fc2.",
        ".output.LayerNorm.": ".norm2.",
    }
    renamed: dict[str, Any] = {}
    for name, tensor in tensors.items():
        for part in ("key", "value"):
            if f".self.{part}." in name:
                break
        else:
            if ".self.query." in name:
                parts = [tensors[name.replace(".query.", f".{part}.")] for part in ("query", "key", "value")]
                name, tensor = name.replace("attention.self.query", "mixer.Wqkv"), np.concatenate(parts)
            for ours, other in theirs.items() if renames_all else ():
                name = name.replace(ours, other)
            renamed[name.replace(".encoder.layer.", ".encoder.layers.")] = tensor
    return renamed


def test_the_shared_model_by_the_names_of_flash_attn_is_the_one_it_was_made_from(shared: Path) -> None:
    """Its values are those of `added-both`, which tells where its query, key and value lie."""
    theirs, same = shared / "models" / "jina-like", shared / "models" / "added-both"

    logits = [
        Engine.load(directory, device="cpu", max_length_tokens=512).score_pairs(PLAIN_PAIRS)
        for directory in (theirs, same)
    ]

    np.testing.assert_allclose(*logits, atol=1e-4, rtol=0)
