"""The commands about models: their names, their options, and which module does each, imported when it runs."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rerankq_worker.settings import WorkerSettings

AddCommand = Callable[[str, Callable[[argparse.Namespace], int], str], argparse.ArgumentParser]


def add_verbs(add: AddCommand) -> None:
    """Put them among the commands of a program."""
    listing = add("list", _list, "list the models that are here, and what computes each")
    info = add("info", _info, "tell what a model's files say of it, without loading it")
    pull = add(
        "pull", _pull, "fetch a model into the hub's cache, with progress; go on with what was cut off"
    )
    verify = add("verify", _verify, "load a model and compare its scores with published ones")
    convert = add("convert", _convert, "write a directory that can be served out of pickled weights (*.bin)")
    quantize = add(
        "quantize",
        _quantize,
        "write a copy of a model whose int8 is calibrated on your own pairs, and say what int8 costs with and without",
    )
    add("build-small", _build_small, "write the small model of the box and print its directory")
    measure = add(
        "bench", _bench, "measure the engine that runs in the runtime directory (`rerankq bench` does)"
    )
    measure.add_argument(
        "--lengths",
        type=int,
        nargs="*",
        default=[],
        help="tokens of a pair; the engine's most is measured besides",
    )
    measure.add_argument("--seconds", type=float, default=30.0, help="for all lengths together")
    for command in (listing, info):
        command.add_argument("--json", action="store_true", help="as JSON, for programs")
    convert.add_argument("--to", required=True, metavar="DIR", help="where; may be the model's own directory")
    quantize.add_argument("--to", required=True, metavar="DIR", help="where; a new or an empty directory")
    quantize.add_argument(
        "--pairs",
        required=True,
        metavar="FILE",
        help='JSON lines, plain or gzipped, {"query": "…", "documents": ["…", …]} on each, as it will be asked. '
        "400 pairs are used, one of each line before a second of any; every fourth only tells what int8 costs",
    )
    for command in (info, pull, verify, convert, quantize):
        command.add_argument("model", nargs="?", help="hub id or directory; RERANKQ_MODEL when left out")
        command.add_argument("--revision", help="commit of the hub id; RERANKQ_MODEL_REVISION when left out")


def _list(options: argparse.Namespace) -> int:
    from rerankq_worker.model_commands.listing import print_models

    return print_models(as_json=options.json)


def _info(options: argparse.Namespace) -> int:
    from rerankq_worker.model_commands.info import print_info

    return print_info(_settings_for(options), as_json=options.json)


def _pull(options: argparse.Namespace) -> int:
    from rerankq_worker.model.adapters import is_adapter
    from rerankq_worker.model.files import base_of, find_model, locate

    settings = _settings_for(options)
    directory, name, revision = locate(settings.model, settings.model_revision, settings.offline)
    if is_adapter(directory):  # whoever loads it first merges it; here may be no torch
        adapter, base, revision = base_of(directory, settings.offline)
        print(f"{name} ({revision}) is in {directory}, an adapter of {adapter.base}, which is in {base}")
        return 0
    found = find_model(directory, revision)
    print(f"{name} ({found.revision}) is in {directory}")
    return 0


def _verify(options: argparse.Namespace) -> int:
    from rerankq_worker.model_commands.verifying import verify

    return verify(_settings_for(options))


def _convert(options: argparse.Namespace) -> int:
    from rerankq_worker.model_commands.converting import convert

    return convert(_settings_for(options), Path(options.to).expanduser())


def _quantize(options: argparse.Namespace) -> int:
    from rerankq_worker.model_commands.quantizing import quantize

    pairs, target = (Path(name).expanduser() for name in (options.pairs, options.to))
    return quantize(_settings_for(options), pairs, target)


def _bench(options: argparse.Namespace) -> int:
    from rerankq_worker.model_commands.measuring import bench
    from rerankq_worker.settings import WorkerSettings

    return bench(WorkerSettings.load(), options.lengths, options.seconds)


def _build_small(_options: argparse.Namespace) -> int:
    from rerankq_worker.model.small import materialise

    print(materialise())
    return 0


def _settings_for(options: argparse.Namespace) -> "WorkerSettings":
    """The settings, with the model that was asked for; a pinned revision belongs to the pinned model only."""
    from rerankq_worker.settings import WorkerSettings

    settings = WorkerSettings.load()
    asked = {"model": options.model, "model_revision": options.revision}
    if options.model is None:
        asked = {"model_revision": options.revision or settings.model_revision}
    return settings.model_copy(update=asked)
