"""`rerankq doctor`: what is wrong, and what to type."""

import dataclasses
import json
from typing import TYPE_CHECKING

import typer

from rerankq.cli import options
from rerankq.cli.screen import out
from rerankq.cli.serve import is_installed

if TYPE_CHECKING:
    from rerankq.http.settings import HttpSettings


def doctor(as_json: options.Json = False) -> None:
    """Look at everything that answering a job stands on, a line each; behind the arrow stands the cure.

    [bold]Example:[/] rerankq doctor || rerankq doctor --json | jq '.checks[] | select(.cure != "")'

    Settings and where they come from; Redis: how soon it answers, the rights of
    its user for each command of ours, what it may lose, memory, disk, clock;
    workers, lanes, models, releases, clocks; a job through each lane. Where the
    worker is installed: libraries, driver, memory, precision, the model's files, and
    whether it gives published scores. Takes half a minute at most, changes
    nothing, shows no secret and no text.

    `redis-cli` in a cure takes the password from REDISCLI_AUTH. Exit codes:
    0 all is well, 1 a warning, 2 broken.
    """
    from rerankq.contract.findings import exit_code, in_words
    from rerankq.doctor.examination import Examination

    examination = Examination()
    for finding in examination.run([_of_http] if is_installed() else []):
        if not as_json:
            out.print(in_words(finding), markup=False, soft_wrap=True, style=_STYLES.get(finding.verdict, ""))
    code = exit_code(examination.found)
    if as_json:
        checks = [dataclasses.asdict(finding) for finding in examination.found]
        print(json.dumps({"exit_code": code, "checks": checks}))
    raise typer.Exit(code)


def _of_http() -> "HttpSettings":
    from rerankq.http.settings import HttpSettings

    found = HttpSettings.load()
    found.refuse_open_doors()
    return found


_STYLES = {"skipped": "dim", "warn": "yellow", "broken": "red"}
