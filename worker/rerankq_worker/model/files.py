"""Find the files of a model and refuse what cannot be served, before anything heavy is imported.

Reads config.json and the head of the weights file; knows no torch and no tensor.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from rerankq_worker.model import adapters, hub
from rerankq_worker.model.errors import HubAway as HubAway
from rerankq_worker.model.errors import ModelBroken, ModelNotFound, NotPacked, reading
from rerankq_worker.model.errors import ModelError as ModelError
from rerankq_worker.model.family import FAMILIES, Family
from rerankq_worker.model.fingerprints import DIGITS, fingerprint_over
from rerankq_worker.model.pickles import pickled_module
from rerankq_worker.model.scales import SCALES
from rerankq_worker.model.small import WEIGHTS_SHA256, materialise

KNOWN_REVISIONS: dict[str, str] = {}  # Hub id -> commit; empty until a host with the weights has verified one
SHIPPED_MODEL = "small"

ENGINES = ("auto", "packed", "sentence-transformers")
NO_AND_YES = 2  # labels
SAVED_CONFIG = "config_sentence_transformers.json"
PICKLED = ", which can run code when read; convert them, which runs none:"
CALIBRATION = "int8_calibration.safetensors"
"""Beside the weights: how int8 products are scaled, as `rerankq model quantize` found it."""
HELD_AS = ("F64", "F32", "F16", "BF16")
READ_BEFORE_LOADING = ("max_position_embeddings", "vocab_size")
"""Of these transformers' own defaults would do, silently, if they happened to fit."""


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A directory that was checked: config, safetensors weights, tokenizer.json."""

    path: Path
    name: str
    """The Hub id, "small", or the directory's own name: what a ranking says it was scored with."""
    revision: str
    """The Hub commit, or `sha256:` and 12 digits: of a directory's `fingerprint`, or of "small"'s pinned weights."""


def find_model(model: str | Path, revision: str | None = None, offline: bool = False) -> ModelFiles:
    """The checked files of a directory, of the shipped model ("small") or of a Hub id.

    Raises:
        ModelNotFound, ModelBroken: one line each, with the way out.
    """
    directory, name, revision = locate(model, revision, offline)
    if adapters.is_adapter(directory):
        with reading(directory):
            adapter, base, revision = base_of(directory, offline)
            weight_files(base)  # pickles, or none at all, are told by their own name
            directory = adapters.merge(adapter, base, revision)
    return _checked(directory, name, revision)


def base_of(directory: Path, offline: bool = False) -> tuple[adapters.Adapter, Path, str]:
    """The adapter of a directory, the directory of what it was trained on, and the revision of both in one.

    Raises:
        ModelError: the one cannot be read, or the other is not here.
    """
    adapter = adapters.read_adapter(directory)
    try:
        base, _name, _revision = locate(adapter.base, adapter.base_revision, offline)
    except ModelNotFound as error:
        raise type(error)(
            f"{directory} is an adapter (LoRA) of {adapter.base}: {error}; "
            "base_model_name_or_path in its adapter_config.json says where that is"
        ) from error
    if adapters.is_adapter(base):
        raise ModelBroken(
            f"{directory} is an adapter of an adapter ({base}); merge that one into its base first"
        )
    return adapter, base, adapters.revision_of(adapter, base)


def locate(
    model: str | Path, revision: str | None = None, offline: bool = False
) -> tuple[Path, str, str | None]:
    """The directory, name and revision of a model whose files nobody has looked at; None is for the fingerprint.

    Raises:
        ModelNotFound: with the way out.
    """
    if model == SHIPPED_MODEL:
        return _shipped_model(), SHIPPED_MODEL, shipped_revision()
    directory = Path(model)
    with reading(directory):
        directory = directory.expanduser()
        is_there = directory.is_dir()
    if is_there:
        return directory, directory.resolve().name, revision
    if isinstance(model, Path) or not hub.HUB_ID.fullmatch(model):
        raise ModelNotFound(
            f"no model directory at {directory}; give a directory, a Hub id such as BAAI/bge-reranker-v2-m3, "
            f"or {SHIPPED_MODEL!r}"
        )
    snapshot = hub.fetch(model, revision or KNOWN_REVISIONS.get(model), offline)
    return snapshot, model, snapshot.name


def read_json_object(file: Path) -> dict[str, Any]:
    """What a JSON file of a model holds, as a dictionary."""
    try:
        content: Any = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelBroken(f"{file} is missing; {file.parent} is no model directory") from error
    except ValueError as error:
        raise ModelBroken(f"{file} is not JSON ({error}); {hub.fetched_anew(file)}") from error
    if not isinstance(content, dict):
        raise ModelBroken(f"expected {file} to hold a JSON object, got {type(content).__name__}")
    return cast(dict[str, Any], content)


def read_if_there(file: Path) -> dict[str, Any]:
    """What a JSON file of a model holds; nothing where the model has none."""
    return read_json_object(file) if file.is_file() else {}


def read_config(directory: Path) -> dict[str, Any]:
    """config.json as a dictionary."""
    return read_json_object(directory / "config.json")


def family_of(directory: Path) -> Family:
    """The family that config.json says the model is of.

    Raises:
        NotPacked: none that the packed engine computes, or in a way that it does not.
    """
    config, file = read_config(directory), directory / "config.json"
    named = config.get("architectures") or []
    for family in FAMILIES:
        # without its class transformers goes by the type, and the weights must be that model's
        by_type = family.model_type == config.get("model_type") and (
            not named or _has_head(directory, family)
        )
        if family.architecture in named or by_type:
            _check_demands(family, config, file)
            return family
    raise NotPacked(
        f"expected {file} to say {' or '.join(family.architecture for family in FAMILIES)}, got "
        f"{config.get('architectures')}; the packed engine computes no other"
    )


def _has_head(directory: Path, family: Family) -> bool:
    return any(f"{family.head[-1]}.weight" in tensors_in(file) for file in weight_files(directory))


def labels_of(directory: Path, family: Family) -> int:
    """How many labels a model has: as config.json says, or, where it does not (transformers assumes 2), its head."""
    config, head = read_config(directory), f"{family.head[-1]}.weight"
    if "num_labels" in config:
        return int(config["num_labels"])
    if config.get("id2label"):
        return len(config["id2label"])
    heads = (tensors_in(file).get(head) for file in weight_files(directory))
    return next((int(tensor["shape"][0]) for tensor in heads if tensor), 1)


def choose_engine(directory: Path, asked: str = "auto") -> str:
    """The engine that computes a model which `find_model` has checked: `packed` or `sentence-transformers`.

    Args:
        asked: one of these, or `auto` for the first that can.

    Raises:
        ModelBroken: the packed engine was asked for and cannot, or nothing could with such files.
    """
    if asked == "sentence-transformers":
        return asked
    try:
        with reading(directory):
            _check_packed(directory)
    except NotPacked as error:
        if asked == "packed":
            raise NotPacked(
                f"RERANKQ_ENGINE=packed cannot compute this model: {error}; set RERANKQ_ENGINE=auto"
            ) from error
        return "sentence-transformers"
    return "packed"


def scale_of(directory: Path) -> str:
    """The scale of a model's scores, as its files name it: of `SCALES`, by CrossEncoder's own rules.

    Raises:
        ModelBroken: none that is served.
    """
    config = read_config(directory)
    saved = read_if_there(directory / SAVED_CONFIG) if (directory / "modules.json").is_file() else {}
    own: Any = config.get("sentence_transformers")
    named = saved.get("activation_fn") or (own.get("activation_fn") if isinstance(own, dict) else None)
    named = named or config.get("sbert_ce_default_activation_function")
    # CrossEncoder takes no other: it would be code
    if not isinstance(named, str) or not named.startswith("torch."):
        return "sigmoid"
    return scale_called(directory, named)


def scale_called(directory: Path, activation: str) -> str:
    """The scale that a class of torch.nn makes.

    Raises:
        ModelBroken: none that is served.
    """
    name = activation.rpartition(".")[2].lower()
    if name not in SCALES:
        raise ModelBroken(
            f"{directory} has its scores on the scale of {activation}, expected one of {', '.join(SCALES)}; "
            "name torch.nn.Identity as its activation_fn to get what the model computes"
        )
    return name


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files that hold the weights: one, or the shards that the index names."""
    single = directory / "model.safetensors"
    index = directory / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if index.is_file():
        shards = cast(dict[str, str], read_json_object(index).get("weight_map", {}))
        return [directory / name for name in sorted(set(shards.values()))]
    raise ModelBroken(_without_weights(directory))


def fingerprint(directory: Path) -> str:
    """`sha256:` and 12 digits over config, tokenizer, samples of the weights, and what int8 was calibrated to."""
    whole = [directory / name for name in ("config.json", "tokenizer.json")]
    whole += filter(Path.is_file, [directory / CALIBRATION])
    return fingerprint_over(whole, weight_files(directory))


def _checked(directory: Path, name: str, revision: str | None) -> ModelFiles:
    with reading(directory):
        _refuse_quantized(directory)
        _check_tokenizer(directory)
        for file in weight_files(directory):
            _check_safetensors(file)
        _refuse_modules_of_its_own(directory)
        _refuse_pickled_modules(directory)
        return ModelFiles(path=directory, name=name, revision=revision or fingerprint(directory))


def _refuse_modules_of_its_own(directory: Path) -> None:
    """Of a reranker; those of an embedding model CrossEncoder leaves alone: it makes a reranker's in their place."""
    file = directory / "modules.json"
    if not file.is_file() or read_if_there(directory / SAVED_CONFIG).get("model_type") != "CrossEncoder":
        return
    modules: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
    for module in modules:
        if not str(module["type"]).startswith("sentence_transformers."):
            raise ModelBroken(
                f"{file} names a module that is no part of sentence-transformers ({module['type']}), and code of "
                "others is never run here; give a model without"
            )


def _refuse_pickled_modules(directory: Path) -> None:
    pickle = pickled_module(directory, hub.files_in_repository(directory) or ())
    if pickle is not None:
        raise ModelBroken(
            f"{directory} has a layer's weights as a pickle ({pickle}){PICKLED} {_convert(directory)}"
        )


def _convert(directory: Path) -> str:
    """The command of ours that writes a model's files as they are wanted here."""
    repository = hub.repository_of(directory)
    if repository is None:
        return f"`rerankq model convert {directory} --to {directory}`"
    name = hub.hub_id(repository)
    target = name.rsplit("/", 1)[-1]
    return f"`rerankq model convert {name} --to {target}`, and give the directory {target}"


def _without_weights(directory: Path) -> str:
    pickled = f"has only pickled weights (*.bin){PICKLED}"
    repository, at_the_hub = hub.repository_of(directory), hub.files_in_repository(directory)
    if any(directory.glob("*.bin")):
        return f"{directory} {pickled} {_convert(directory)}"
    if repository is None:
        return (
            f"{directory} has no model.safetensors; give a directory that a model was saved to, or a Hub id"
        )
    name = hub.hub_id(repository)
    if at_the_hub is not None and not any(file.endswith(".safetensors") for file in at_the_hub):
        if any(file.endswith(".bin") for file in at_the_hub):
            return f"{name} {pickled} {_convert(directory)}"
        return f"{name} has no weights of PyTorch at the Hub; give another model"
    return (
        f"{name} has no model.safetensors in {directory}; run `rerankq model pull {name}` where the Hub can be "
        f"reached, and if that says so too, its weights are pickles (*.bin): {_convert(directory)}"
    )


def shipped_revision() -> str:
    """The revision of the model in the box."""
    return f"sha256:{WEIGHTS_SHA256[:DIGITS]}"


def _shipped_model() -> Path:
    """The model in the box. Its revision is its pinned hash: samples may miss a change to a few of its tensors."""
    try:
        return materialise()
    except OSError as error:
        raise ModelNotFound(
            f"the small model cannot be written ({error}); set RERANKQ_CACHE_DIR to a directory that can be"
        ) from error


def _refuse_quantized(directory: Path) -> None:
    if read_config(directory).get("quantization_config"):
        raise ModelBroken(
            f"{directory / 'config.json'} asks for quantized weights (quantization_config), which are not served; "
            "save the model without, or remove that key if its weights are plain fp32 or fp16: RERANKQ_DTYPE chooses "
            "what is computed in"
        )


def _check_packed(directory: Path) -> None:
    family = family_of(directory)
    config, file = read_config(directory), directory / "config.json"
    labels = labels_of(directory, family)
    if labels not in (1, NO_AND_YES):
        raise ModelBroken(
            f"expected a reranker with 1 or 2 labels, got {labels} in {file}; give another model"
        )
    _check_sizes(family, config, file)
    _refuse_more_than_the_model(directory)


def _refuse_more_than_the_model(directory: Path) -> None:
    """What sentence-transformers may have saved beside the model, and applies to each pair: layers, a prompt."""
    if not (directory / "modules.json").is_file():
        return
    modules: Any = json.loads((directory / "modules.json").read_text(encoding="utf-8"))
    told, cut = (read_if_there(directory / name) for name in (SAVED_CONFIG, "sentence_bert_config.json"))
    prompt = (told.get("prompts") or {}).get(told.get("default_prompt_name"))
    if len(modules) > 1 or prompt or cut.get("do_lower_case") or cut.get("processing_kwargs"):
        raise NotPacked(
            f"{directory} holds more than a model: layers or a prompt of sentence-transformers' own"
        )


def _check_demands(family: Family, config: dict[str, Any], file: Path) -> None:
    for key, value in family.demanded.items():
        if config.get(key, value) != value:
            raise NotPacked(f"expected {key} to be {value!r} in {file}, got {config[key]!r}")


def _check_sizes(family: Family, config: dict[str, Any], file: Path) -> None:
    for key, smallest in family.smallest.items():
        if key not in config and key not in READ_BEFORE_LOADING:
            continue
        value = config.get(key)
        if not isinstance(value, int) or value < smallest:
            raise ModelBroken(
                f"expected {key} to be a number of at least {smallest} in {file}, got {value!r}"
            )


def _check_tokenizer(directory: Path) -> None:
    if not (directory / "tokenizer.json").is_file():
        raise ModelBroken(f"{directory} has no tokenizer.json; have one made: {_convert(directory)}")


def _check_safetensors(file: Path) -> None:
    for name, tensor in tensors_in(file).items():
        if name.endswith((".weight", ".bias")) and tensor["dtype"] not in HELD_AS:
            raise ModelBroken(
                f"{file} holds {name} as {tensor['dtype']}: quantized weights are not served; save the model in "
                "fp32, fp16 or bf16"
            )


def tensors_in(file: Path) -> dict[str, Any]:
    """The head of a safetensors file: 8 bytes of length, JSON, then exactly as many bytes as it promises."""
    cut_off = f"{file} is cut off or no safetensors file; {hub.fetched_anew(file)}"
    if not file.is_file():
        raise ModelBroken(f"{file} is missing; {hub.fetched_anew(file)}")
    with file.open("rb") as stream:
        head_bytes = int.from_bytes(stream.read(8), "little")
        if head_bytes > 100_000_000:  # the format's own limit
            raise ModelBroken(cut_off)
        head = stream.read(head_bytes)
    try:
        tensors: dict[str, Any] = json.loads(head)
        tensors.pop("__metadata__", None)
        end = max(tensor["data_offsets"][1] for tensor in tensors.values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelBroken(cut_off) from error
    if file.stat().st_size != 8 + head_bytes + end:
        raise ModelBroken(cut_off)
    return tensors
