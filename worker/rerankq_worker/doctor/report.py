"""`rerankq-worker doctor`: all that is found on this host, for people or as JSON for `rerankq doctor`."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from io import TextIOWrapper
from typing import Any

from rerankq.contract.errors import InvalidSettings
from rerankq.contract.findings import Finding, broken, exit_code, in_words, skipped
from rerankq.contract.setting_cures import of_refusal
from rerankq_worker.doctor import devices, libraries, models, runtime
from rerankq_worker.settings import WorkerSettings


def print_report(as_json: bool) -> int:
    """Print each finding as soon as it is there; the exit code: 0 all is well, 1 a warning, 2 broken."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # where a terminal has no arrow, the line counts
    found: list[Finding] = []
    for each in look_around():
        if isinstance(each, Finding):
            found.append(each)
        if as_json:
            print(json.dumps({"finding": asdict(each)} if isinstance(each, Finding) else each), flush=True)
        elif isinstance(each, Finding):
            print(in_words(each), flush=True)
    return exit_code(found)


def look_around() -> Iterator[Finding | dict[str, Any]]:
    """Who serves here, scores that were published of the model, and all that is found, what takes long at the end."""
    try:
        settings = WorkerSettings.load()
    except InvalidSettings as error:
        yield of_refusal(str(error))
        return
    engine = models.engine_of(settings)
    with libraries.Importing(engine) as importing:
        yield {"launcher": runtime.launcher(settings)}
        yield {"golden": models.golden(settings)}
        yield from _look("runtime", lambda: runtime.findings(settings))
        yield from _look("model", lambda: models.findings(settings))
        versions = [*_look("libraries", lambda: libraries.findings(engine))]
        yield from versions
        yield from _look("device", lambda: devices.findings(settings, importing.sight))
        if exit_code(versions):
            yield skipped("libraries.import", "those that are wanted come first")
        else:
            yield from _look("libraries.import", lambda: [libraries.imported(importing.sight())])


def _look(check: str, look: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """What is found, or that the look itself failed: the others go on."""
    try:
        yield from look()
    except Exception as error:  # noqa: BLE001 - the one boundary: drivers and files fail as they like
        told = f"this check failed itself ({type(error).__name__}). This is a bug"
        yield broken(check, told, "report it, with the output of `rerankq doctor --json`")
