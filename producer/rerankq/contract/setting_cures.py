"""What to type where a setting is wrong: by where it was set, in the environment, in `.env` or as a secret's file."""

import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path

from rerankq.contract.errors import InvalidSettings
from rerankq.contract.findings import Finding, broken
from rerankq.contract.settings import DOTENV, PREFIX, read_dotenv, secrets_directory

_VARIABLE = re.compile(rf"\b{PREFIX}[A-Z_]+\b")


def of_refusal(message: str) -> Finding:
    """What to do about values that the settings refuse in these words."""
    named = [name for name in _VARIABLE.findall(message) if place_of(name)]
    text, _, way_out = message.rpartition("; ")
    if not named:
        return broken("settings", text or message, way_out or "`rerankq settings` shows each with its origin")
    return broken("settings", f"{message} (from {place_of(named[0])})", taking_out(named[0]))


def taking_out(variable: str) -> str:
    """The command after which the default holds."""
    place = place_of(variable)
    if place == "environment":
        return f"unset {variable}"
    if place == DOTENV:
        return f"sed -Ei '/^(export +)?{variable} *=/Id' {_dotenv_path()}"
    return f"correct it in {place}"


def renaming(variable: str, meant: str) -> str:
    """The command after which the value is that of another variable."""
    if place_of(variable) == "environment":
        return f'export {meant}="${variable}"; unset {variable}'
    return f"sed -Ei 's/^(export +)?{variable} *=/{meant}=/' {_dotenv_path()}"


def place_of(variable: str) -> str:
    """Where it is set; nothing where it is not."""
    if variable in os.environ:
        return "environment"
    if variable in _dotenv():
        return DOTENV
    secrets = secrets_directory()
    files = Path(secrets).iterdir() if secrets else ()
    return next((str(file) for file in files if file.name.upper() == variable), "")


def _dotenv() -> Mapping[str, str | None]:
    try:
        return read_dotenv()
    except InvalidSettings:
        return {}


def _dotenv_path() -> str:
    return shlex.quote(str(Path(DOTENV).absolute()))
