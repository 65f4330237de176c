"""Where each setting's value came from, for people who wonder why it is what it is. Secrets are masked."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

from pydantic import SecretStr

from rerankq.contract.settings import DOTENV, PREFIX, SharedSettings, read_dotenv, secrets_directory

_PASSWORD = re.compile(
    r"(://[^:/@]*:)[^/]*(?=@)"
)  # up to the last @: one in a password need not be written %40


class Effective(TypedDict):
    """One setting as it is in force."""

    value: Any
    source: str
    """`environment`, `.env`, the file of the secrets directory, `default`, or a `rerankq up` that was found."""


def effective(settings: SharedSettings) -> dict[str, Effective]:
    """Every setting of a class by the name of its variable."""
    variables = {PREFIX + field.upper(): field for field in type(settings).model_fields}
    return {
        variable: Effective(value=_shown(getattr(settings, field)), source=_source(variable, settings, field))
        for variable, field in variables.items()
    }


def _shown(value: Any) -> Any:
    if not isinstance(value, SecretStr):
        return value
    secret = value.get_secret_value()
    if "://" not in secret:
        return "***" if secret else ""
    return _PASSWORD.sub(r"\1***", secret)  # the host is what people look for


def _source(variable: str, settings: SharedSettings, field: str) -> str:
    if _has(os.environ, variable):
        return "environment"
    if _has(read_dotenv(), variable):
        return DOTENV
    secrets = secrets_directory()
    for file in Path(secrets).iterdir() if secrets else ():
        if file.name.upper() == variable:
            return str(file)
    is_default = getattr(settings, field) == type(settings).model_fields[field].default
    return "default" if is_default else "a running `rerankq up`"


def _has(names: Mapping[str, str | None], variable: str) -> bool:
    """Names are taken in any case; an empty value counts as none."""
    return any(name.upper() == variable and value for name, value in names.items())
