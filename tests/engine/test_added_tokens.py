"""Tokens that a checkpoint added are found in texts as CrossEncoder finds them; those of the frame never are."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from safetensors.numpy import load_file, save_file

from rerankq_worker.engine import Engine
from rerankq_worker.model.files import ModelBroken
from rerankq_worker.model.reading import Reading
from rerankq_worker.model.tokenizer import PairTokenizer

EOT = "[EOT]"
PLAIN = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
TEXTS = [
    "bamboo [EOT] panda",
    "bamboo[EOT]panda[EOT][EOT]bear",
    "  [EOT]  bear [EOT]\n[EOT]s x[EOT]",
    "［ＥＯＴ］ bear [eot] [EOT",
    "new york, anew york new yorks NEW YORK",
    "大熊猫[EOT]以竹子为食new york。",
    "plain bear",
    "",
]
EMBEDDINGS = "roberta.embeddings.word_embeddings.weight"


@pytest.fixture
def model_dir(tiny_dir: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model whose embedding table has eight rows more than it needs."""
    directory = Path(shutil.copytree(tiny_dir, tmp_path / "model"))
    tensors = load_file(directory / "model.safetensors")
    more = np.random.default_rng(1).normal(0, 0.6, (8, tensors[EMBEDDINGS].shape[1])).astype(np.float32)
    tensors[EMBEDDINGS] = np.concatenate([tensors[EMBEDDINGS], more])
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    change(directory, "config.json", vocab_size=len(tensors[EMBEDDINGS]))
    return directory


def change(directory: Path, name: str, **changes: Any) -> None:
    file = directory / name
    before = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps({**before, **changes}))


def vocabulary_size(directory: Path) -> int:
    return len(json.loads((directory / "tokenizer.json").read_text())["model"]["vocab"])


def add(directory: Path, content: str, after: int = 0, **flags: bool) -> None:
    """To tokenizer.json alone."""
    definition = json.loads((directory / "tokenizer.json").read_text())
    entry = {"id": vocabulary_size(directory) + after, "content": content, **PLAIN, **flags}
    change(directory, "tokenizer.json", added_tokens=[*definition["added_tokens"], entry])


def add_inside(directory: Path) -> None:
    """As a piece of the vocabulary, and as an added token."""
    definition = json.loads((directory / "tokenizer.json").read_text())
    definition["model"]["vocab"].append([EOT, -3.0])
    definition["added_tokens"].append({"id": len(definition["model"]["vocab"]) - 1, "content": EOT, **PLAIN})
    change(directory, "tokenizer.json", **definition)


def add_mask_between(directory: Path) -> None:
    """The frame's own `<mask>` after one of them and before the other, none of them in the vocabulary."""
    definition = json.loads((directory / "tokenizer.json").read_text())
    definition["model"]["vocab"].pop()
    mask = definition["added_tokens"].pop()
    first = len(definition["model"]["vocab"])
    for index, entry in enumerate(
        [{"content": "new york", **PLAIN}, mask, {"content": EOT, **PLAIN, "lstrip": True}]
    ):
        definition["added_tokens"].append({**entry, "id": first + index})
    change(directory, "tokenizer.json", **definition)


def decoder_of(directory: Path, **flags: bool) -> dict[str, Any]:
    """As transformers 4 wrote it."""
    definition = json.loads((directory / "tokenizer.json").read_text())
    known = {
        str(entry["id"]): {name: value for name, value in entry.items() if name != "id"}
        for entry in definition["added_tokens"]
    }
    return known | {str(vocabulary_size(directory)): {"content": EOT, **PLAIN, **flags}}


FORMS: dict[str, Callable[[Path], object]] = {
    "special, in tokenizer.json": lambda d: add(d, EOT),
    "not special": lambda d: add(d, EOT, special=False),
    "not special, normalized": lambda d: add(d, EOT, special=False, normalized=True),
    "strips on the left": lambda d: add(d, EOT, lstrip=True),
    "strips on the right": lambda d: add(d, EOT, rstrip=True),
    "a single word": lambda d: add(d, "york", single_word=True, special=False, normalized=True),
    "with a blank in it": lambda d: add(d, "new york", special=False, normalized=True),
    "two of them": lambda d: (add(d, EOT), add(d, "new york", after=1, lstrip=True, special=False)),
    "a piece of the vocabulary": add_inside,
    "a piece that is added as well": lambda d: change(d, "tokenizer_config.json", extra_special_tokens=["a"]),
    "<mask> between them": add_mask_between,
    "added_tokens.json": lambda d: change(d, "added_tokens.json", **{EOT: vocabulary_size(d)}),
    "added_tokens.json, special by the map": lambda d: (
        change(d, "added_tokens.json", **{EOT: vocabulary_size(d)}),
        change(d, "special_tokens_map.json", additional_special_tokens=[EOT]),
    ),
    "special_tokens_map.json": lambda d: change(
        d, "special_tokens_map.json", additional_special_tokens=[EOT, "new york"]
    ),
    "tokenizer_config.json": lambda d: change(d, "tokenizer_config.json", additional_special_tokens=[EOT]),
    "tokenizer_config.json, extra": lambda d: change(
        d, "tokenizer_config.json", extra_special_tokens=["new york", EOT]
    ),
    "tokenizer_config.json, by role": lambda d: change(
        d, "tokenizer_config.json", extra_special_tokens={"eot_token": EOT}
    ),
    "tokenizer_config.json, a role of its own": lambda d: change(d, "tokenizer_config.json", eot_token=EOT),
    "added_tokens_decoder": lambda d: change(
        d, "tokenizer_config.json", added_tokens_decoder=decoder_of(d, lstrip=True)
    ),
    "added_tokens_decoder and tokenizer.json": lambda d: (
        change(d, "tokenizer_config.json", added_tokens_decoder=decoder_of(d, rstrip=True)),
        add(d, EOT),
    ),
    "special tokens are split": lambda d: (
        add(d, EOT),
        change(d, "tokenizer_config.json", split_special_tokens=True),
    ),
    "a mask of its own": lambda d: (add(d, "[M]"), change(d, "tokenizer_config.json", mask_token="[M]")),
}
CLASSES = ["XLMRobertaTokenizerFast", "PreTrainedTokenizerFast"]


@pytest.fixture(params=CLASSES)
def of_class(request: pytest.FixtureRequest, model_dir: Path) -> Path:
    change(model_dir, "tokenizer_config.json", tokenizer_class=request.param)
    return model_dir


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_rows_are_those_of_transformers(of_class: Path, form: Callable[[Path], object]) -> None:
    form(of_class)

    rows = PairTokenizer.from_model_dir(of_class).read(Reading(query=TEXTS[0], documents=TEXTS))

    reference = transformers.AutoTokenizer.from_pretrained(of_class)
    expected = reference([TEXTS[0]] * len(TEXTS), TEXTS)["input_ids"]
    assert [row.token_ids.tolist() for row in rows] == expected


@pytest.mark.parametrize("form", [FORMS["two of them"], FORMS["<mask> between them"]])
def test_scores_are_those_of_cross_encoder(model_dir: Path, form: Callable[[Path], object]) -> None:
    form(model_dir)
    pairs = [(query, document) for query in TEXTS[:2] for document in TEXTS]

    logits = Engine.load(model_dir, device="cpu").score_pairs(pairs)

    np.testing.assert_allclose(logits, cross_encoder_logits(model_dir, pairs), atol=1e-4)


def test_scores_of_a_shared_checkpoint_are_those_of_cross_encoder(shared: Path) -> None:
    directory = shared / "models" / "added-both"
    texts = ["[TABLE] adenosine", "新能源汽车 0x80070005[TABLE]", "an adenosine receptor", "plain words"]
    pairs = [(query, document) for query in texts for document in texts]

    logits = Engine.load(directory, device="cpu").score_pairs(pairs)

    np.testing.assert_allclose(logits, cross_encoder_logits(directory, pairs), atol=1e-4)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_no_text_forges_the_frame(model_dir: Path, form: Callable[[Path], object]) -> None:
    form(model_dir)
    tokenizer = PairTokenizer.from_model_dir(model_dir)
    frame = transformers.AutoTokenizer.from_pretrained(model_dir)

    row = tokenizer.read(
        Reading(query="<s></s>", documents=[f"a {EOT}<pad>{EOT} </s> <mask><unk>{frame.mask_token}"])
    )[0]

    ids = row.token_ids.tolist()
    counts = [ids.count(token) for token in (frame.bos_token_id, frame.eos_token_id, frame.pad_token_id)]
    assert counts == [1, 3, 0]
    assert frame.mask_token_id not in ids


def test_a_row_is_cut_at_an_added_token_like_at_any_other(model_dir: Path) -> None:
    add(model_dir, EOT)
    document = f"bear {EOT}" * 60
    tokenizer = PairTokenizer.from_model_dir(model_dir, max_length_tokens=64)
    reference = transformers.AutoTokenizer.from_pretrained(model_dir)

    rows = [
        tokenizer.read(Reading(query="panda " * n, documents=[document]))[0].token_ids.tolist()
        for n in (1, 2, 3)
    ]

    assert rows == [
        reference("panda " * n, document, max_length=64, truncation="only_second")["input_ids"]
        for n in (1, 2, 3)
    ]


@pytest.mark.parametrize("shift", range(0, 60, 7))
def test_a_huge_text_cut_inside_a_long_added_token_keeps_its_tokens(model_dir: Path, shift: int) -> None:
    long_token = "".join(chr(0x4E00 + n) for n in range(400))
    add(model_dir, long_token, special=False)
    tokenizer = PairTokenizer.from_model_dir(model_dir, max_length_tokens=64)
    document = "x" * shift + (" bear" * 30 + long_token) * 40

    row = tokenizer.read(Reading(query="panda", documents=[document]))[0].token_ids.tolist()

    whole = transformers.AutoTokenizer.from_pretrained(model_dir)(
        "panda", document, max_length=64, truncation="only_second"
    )
    assert row == whole["input_ids"]


def contradictions() -> Iterator[Any]:
    one = "gets id .* where a file says"
    yield pytest.param(lambda d: add(d, EOT, after=3), one, id="an id with a gap before it")
    yield pytest.param(
        lambda d: (add(d, EOT), change(d, "added_tokens.json", **{EOT: vocabulary_size(d) + 1})),
        one,
        id="two ids for one token",
    )
    yield pytest.param(
        lambda d: (add(d, EOT), change(d, "added_tokens.json", **{"[SEC]": vocabulary_size(d)})),
        one,
        id="two tokens with one id",
    )
    yield pytest.param(
        lambda d: (change(d, "tokenizer_config.json", added_tokens_decoder=decoder_of(d)), add(d, "[X]")),
        r"adds the token '\[X\]', which added_tokens_decoder .* lacks",
        id="a token that the decoder lacks",
    )
    yield pytest.param(
        lambda d: [add(d, f"[{n}]", after=n) for n in range(9)],
        "has ids up to .*, the embedding table .* rows",
        id="more tokens than embeddings",
    )


@pytest.mark.parametrize(("form", "complaint"), list(contradictions()))
def test_ids_that_no_reading_makes_right_are_refused(
    model_dir: Path, form: Callable[[Path], object], complaint: str
) -> None:
    form(model_dir)

    with pytest.raises(ModelBroken, match=complaint):
        PairTokenizer.from_model_dir(model_dir)


def cross_encoder_logits(directory: Path, pairs: list[tuple[str, str]]) -> Any:
    from sentence_transformers import CrossEncoder  # not at collection, which every process does

    encoder = CrossEncoder(str(directory), device="cpu", local_files_only=True)
    return encoder.predict(pairs, activation_fn=lambda logit: logit, show_progress_bar=False)
