"""An adapter is served as what peft makes of it and of the weights it was trained on."""

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from rerankq_worker.engine import Engine
from rerankq_worker.engine.merging import merge
from rerankq_worker.model import adapters
from rerankq_worker.model.errors import ModelBroken, ModelNotFound
from rerankq_worker.model.facts import facts_of
from rerankq_worker.model.files import base_of, find_model

# peft 0.21 asks transformers 5.23 by a name that it will drop
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

PAIRS = [("panda", "The giant panda is a bear."), ("什么是大熊猫？", "大熊猫是熊科动物。")]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RERANKQ_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def adapter_dir(tiny_dir: Path, tmp_path: Path) -> Path:
    return make_adapter(tmp_path / "my-adapter", tiny_dir)


def make_adapter(
    directory: Path, base: Path, kind: str = "AutoModelForSequenceClassification", **options: Any
) -> Path:
    """LoRA on the attention and a head of its own, drawn at random: as a training leaves it behind."""
    import peft  # not at collection, which every process does

    config = {
        "task_type": "SEQ_CLS",
        "target_modules": ["query", "value"],
        "modules_to_save": ["classifier"],
        "r": 4,
        "lora_alpha": 16,
        "init_lora_weights": False,
        **options,
    }
    torch.manual_seed(3)
    model = getattr(transformers, kind).from_pretrained(base, dtype=torch.float32, num_labels=1)
    adapted = peft.get_peft_model(model, peft.LoraConfig(**config))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "modules_to_save" in name:
                weight.add_(torch.randn_like(weight) * 0.3)
    adapted.save_pretrained(directory)
    change(directory, base_model_name_or_path=str(base))
    return directory


def change(directory: Path, **changes: Any) -> None:
    file = directory / adapters.CONFIG
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def by_peft(
    directory: Path, base: Path, kind: str = "AutoModelForSequenceClassification", **options: Any
) -> Any:
    import peft

    model = getattr(transformers, kind).from_pretrained(base, dtype=torch.float32, **options)
    return peft.PeftModel.from_pretrained(model, directory).merge_and_unload().eval()


def same_logits(ours: Any, theirs: Any) -> bool:
    rows = torch.randint(4, 200, (2, 12), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        return torch.allclose(ours.eval()(input_ids=rows).logits, theirs(input_ids=rows).logits, atol=1e-5)


def test_an_adapter_scores_as_peft_merges_it(tiny: Engine, tiny_dir: Path, adapter_dir: Path) -> None:
    engine = Engine.load(adapter_dir, device="cpu")

    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_dir)
    expected = [
        by_peft(adapter_dir, tiny_dir)(**tokenizer(*pair, return_tensors="pt")).logits.item()
        for pair in PAIRS
    ]
    assert engine.score_pairs(PAIRS).tolist() == pytest.approx(expected, abs=1e-4)
    assert abs(tiny.score_pairs(PAIRS) - expected).max() > 0.01
    assert engine.info.model == "my-adapter"
    assert engine.info.revision.startswith("sha256:")


def test_what_was_merged_is_merged_once(
    adapter_dir: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    merged: list[Path] = []

    def merge_once(_program: str, adapter: Path, base: Path, target: Path) -> None:
        merged.append(target)
        merge(adapter, base).save_pretrained(target)

    monkeypatch.setattr(adapters, "run_apart", merge_once)

    first, second = find_model(adapter_dir), find_model(adapter_dir, offline=True)

    assert first == second
    assert len(merged) == 1
    assert [path.name for path in cache.iterdir() if not path.name.startswith(".")] == [first.path.name]
    assert facts_of(adapter_dir).engine == "packed"


def test_a_head_may_come_with_the_adapter_alone(tiny_dir: Path, tmp_path: Path) -> None:
    """As where an encoder was tuned to be a reranker: its config.json knows of no label."""
    encoder = Path(shutil.copytree(tiny_dir, tmp_path / "encoder"))
    weights = load_file(encoder / "model.safetensors")
    save_file(
        {
            name.removeprefix("roberta."): weight
            for name, weight in weights.items()
            if not name.startswith("classifier")
        },
        encoder / "model.safetensors",
        {"format": "pt"},
    )
    config = json.loads((encoder / "config.json").read_text())
    config = {
        key: value for key, value in config.items() if key not in ("id2label", "label2id", "num_labels")
    } | {"architectures": ["XLMRobertaModel"]}
    (encoder / "config.json").write_text(json.dumps(config))
    adapter = make_adapter(tmp_path / "adapter", encoder)

    merged = merge(adapter, encoder)

    assert merged.config.num_labels == 1
    assert same_logits(merged, by_peft(adapter, encoder, num_labels=1))
    weights = load_file(adapter / adapters.WEIGHTS)
    save_file(
        {name: weight for name, weight in weights.items() if "lora_" in name}, adapter / adapters.WEIGHTS
    )
    with pytest.raises(ModelBroken, match=r"neither .* nor the adapter has classifier\."):
        merge(adapter, encoder)


def test_an_adapter_of_a_causal_model_is_merged_in_its_class(shared: Path, tmp_path: Path) -> None:
    base, kind = shared / "models" / "Qwen3-Reranker-template", "AutoModelForCausalLM"
    adapter = make_adapter(
        tmp_path / "adapter",
        base,
        kind,
        task_type="CAUSAL_LM",
        target_modules=["q_proj", "v_proj"],
        modules_to_save=None,
    )

    merged = merge(adapter, base)

    assert same_logits(merged, by_peft(adapter, base, kind))
    change(adapter, task_type=None)
    assert type(merge(adapter, base)) is type(merged)


def test_tokens_that_the_adapter_added_are_there(tiny_dir: Path, tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "adapter", tiny_dir, modules_to_save=["classifier", "word_embeddings"])
    file = adapter / adapters.WEIGHTS
    weights = load_file(file)
    (name,) = [name for name in weights if name.endswith("word_embeddings.weight")]
    weights[name] = torch.cat([weights[name], torch.ones(3, weights[name].shape[1])])
    save_file(weights, file, {"format": "pt"})

    merged = merge(adapter, tiny_dir)

    assert merged.config.vocab_size == len(weights[name])
    assert torch.equal(merged.get_input_embeddings().weight, weights[name])


def test_without_peft_it_is_said_how_to_get_it(adapter_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "peft" else plain(name))

    with pytest.raises(ModelBroken, match=r"is not installed: pip install 'rerankq\[lora\]'") as caught:
        find_model(adapter_dir)

    assert "\n" not in str(caught.value)


def as_pickle(directory: Path) -> None:
    (directory / adapters.WEIGHTS).rename(directory / adapters.PICKLE)


@pytest.mark.parametrize(
    ("breakage", "complaint"),
    [
        pytest.param(as_pickle, r"as a pickle .* `rerankq model convert \S+ --to", id="a pickle"),
        pytest.param(lambda d: (d / adapters.WEIGHTS).unlink(), "without adapter_model", id="no weights"),
        pytest.param(lambda d: (d / adapters.CONFIG).unlink(), "without adapter_config", id="no config"),
        pytest.param(lambda d: (d / adapters.CONFIG).write_text("{"), "cannot be read", id="broken config"),
        pytest.param(lambda d: change(d, base_model_name_or_path=None), "does not say what", id="no base"),
        pytest.param(
            lambda d: change(d, base_model_name_or_path=str(d)), "adapter of an adapter", id="its own base"
        ),
        pytest.param(
            lambda d: (d / "model.safetensors").write_bytes(b""), "beside whole weights", id="whole weights"
        ),
    ],
)
def test_an_adapter_that_cannot_be_merged_is_refused_in_one_line(
    adapter_dir: Path, breakage: Callable[[Path], Any], complaint: str
) -> None:
    breakage(adapter_dir)

    with pytest.raises(ModelBroken, match=complaint) as caught:
        find_model(adapter_dir)

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("base", ["/home/somebody/base", "some/base"])
def test_a_base_that_is_not_here_is_named(
    adapter_dir: Path, base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    change(adapter_dir, base_model_name_or_path=base)

    with pytest.raises(ModelNotFound, match=rf"is an adapter \(LoRA\) of {base}: .*base_model_name_or_path"):
        find_model(adapter_dir, offline=True)


def test_a_base_may_be_told_from_the_adapters_own_directory(adapter_dir: Path, tiny_dir: Path) -> None:
    shutil.copytree(tiny_dir, adapter_dir.parent / "base")
    change(adapter_dir, base_model_name_or_path="../base")

    _adapter, base, _revision = base_of(adapter_dir)

    assert base.resolve() == (adapter_dir.parent / "base").resolve()


def test_another_adapter_or_another_base_is_another_revision(
    adapter_dir: Path, tiny_dir: Path, tmp_path: Path
) -> None:
    other_base = Path(shutil.copytree(tiny_dir, tmp_path / "other-base"))
    weights = load_file(other_base / "model.safetensors")
    save_file({name: weight + 1 for name, weight in weights.items()}, other_base / "model.safetensors")
    other = make_adapter(tmp_path / "other", tiny_dir, r=2)

    def revision(directory: Path, base: Path) -> str:
        change(directory, base_model_name_or_path=str(base))
        return base_of(directory)[2]

    assert (
        len({revision(adapter_dir, tiny_dir), revision(adapter_dir, other_base), revision(other, tiny_dir)})
        == 3
    )


def other_layers(directory: Path) -> None:
    weights = load_file(directory / adapters.WEIGHTS)
    save_file(
        {name.replace("layer.0", "layer.7"): weight for name, weight in weights.items()},
        directory / adapters.WEIGHTS,
    )


def as_prompt(directory: Path) -> None:
    import peft

    config = peft.PromptTuningConfig(
        task_type="SEQ_CLS",
        **{"num_virtual_tokens": 2, "token_dim": 32, "num_transformer_submodules": 1},
        **{"num_attention_heads": 4, "num_layers": 3},
    )
    base = transformers.AutoModelForSequenceClassification.from_pretrained(
        json.loads((directory / adapters.CONFIG).read_text())["base_model_name_or_path"]
    )
    peft.get_peft_model(base, config).save_pretrained(directory)


@pytest.mark.parametrize(
    ("breakage", "complaint"),
    [
        pytest.param(lambda d: change(d, task_type="FEATURE_EXTRACTION"), "was trained for", id="embedder"),
        pytest.param(lambda d: change(d, target_modules=["nothing"]), "does not fit", id="other modules"),
        pytest.param(lambda d: change(d, peft_type="MAGIC"), "does not fit", id="unknown to peft"),
        pytest.param(other_layers, "does not fit", id="other layers"),
        pytest.param(as_prompt, "PROMPT_TUNING, which cannot be merged", id="prompts"),
    ],
)
def test_what_does_not_belong_together_is_not_merged(
    adapter_dir: Path, tiny_dir: Path, breakage: Callable[[Path], Any], complaint: str
) -> None:
    breakage(adapter_dir)

    with pytest.raises(ModelBroken, match=complaint) as caught:
        merge(adapter_dir, tiny_dir)

    assert "\n" not in str(caught.value)
