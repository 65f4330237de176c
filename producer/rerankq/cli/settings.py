"""`rerankq settings`: what is in force on both sides and for the HTTP face, and where it came from."""

import json
from typing import Any

from rerankq.cli import options
from rerankq.cli.screen import out, print_table
from rerankq.cli.serve import is_installed
from rerankq.contract.settings import PREFIX
from rerankq.contract.variables import place_of
from rerankq.local import worker_program


def settings(as_json: options.Json = False) -> None:
    """Print every setting, its value and where it came from, the most needed first; secrets are masked.

    [bold]Example:[/] rerankq settings --json | jq '.client.RERANKQ_BROKER_URL'
    """
    found = {"client": _of_the_client(), "http": _of_http(), "worker": _of_the_worker()}
    if as_json:
        print(json.dumps(found))
        return
    for side, values in found.items():
        out.print(f"{side}: {'not installed here' if values is None else ''}".rstrip(), style="bold")
        if values is not None:
            print_table(("setting", "value", "from"), _rows(values))


def _of_the_client() -> dict[str, Any]:
    from rerankq.contract.setting_sources import effective
    from rerankq.settings import ClientSettings

    return dict(effective(ClientSettings.load()))


def _of_http() -> dict[str, Any] | None:
    """What it has beside what any client has."""
    if not is_installed():
        return None
    from rerankq.contract.setting_sources import effective
    from rerankq.http.settings import HttpSettings
    from rerankq.settings import ClientSettings

    shared = {f"{PREFIX}{name.upper()}" for name in ClientSettings.model_fields}
    return {name: told for name, told in effective(HttpSettings.load()).items() if name not in shared}


def _of_the_worker() -> dict[str, Any] | None:
    if not worker_program.is_installed():
        return None
    return json.loads(worker_program.ask("settings", "--json"))


def _rows(values: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [
        (name, "" if entry["value"] is None else str(entry["value"]), entry["source"])
        for name, entry in sorted(values.items(), key=lambda one: place_of(one[0]))
    ]
