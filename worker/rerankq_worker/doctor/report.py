"""`rerankq-worker doctor`: all that is found on this host, for people or as JSON for `rerankq doctor`."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from typing import Any

from rerankq.contract.errors import InvalidSettings
from rerankq.contract.findings import Finding, broken, exit_code, in_words
from rerankq.contract.setting_cures import of_refusal
from rerankq_worker.doctor import devices, libraries, models
from rerankq_worker.settings import WorkerSettings


def print_report(as_json: bool) -> int:
    """Print it; the exit code: 0 all is well, 1 a warning, 2 broken."""
    found, golden = look_around()
    if as_json:
        told = {"findings": [asdict(each) for each in found], "golden": golden}
        print(json.dumps(told, ensure_ascii=False))
    else:
        print("\n".join(map(in_words, found)))
    return exit_code(found)


def look_around() -> tuple[list[Finding], dict[str, Any] | None]:
    """All that is found, and the model's published scores, if it has any."""
    try:
        settings = WorkerSettings.load()
    except InvalidSettings as error:
        return [of_refusal(str(error))], None
    engine = models.engine_of(settings)
    sight = libraries.look(engine)
    found = [*_look("libraries", lambda: libraries.findings(engine, sight))]
    found += _look("model", lambda: models.findings(settings))
    found += _look("device", lambda: devices.findings(settings, sight))
    return found, models.golden(settings)


def _look(check: str, look: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """What is found, or that the look itself failed: the others go on."""
    try:
        yield from look()
    except Exception as error:  # noqa: BLE001 - the one boundary: drivers and files fail as they like
        told = f"this check failed itself ({type(error).__name__}). This is a bug"
        yield broken(check, told, "report it, with the output of `rerankq doctor --json`")
