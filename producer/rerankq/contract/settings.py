"""The settings that both sides share, and how any setting is read.

Order of precedence: environment, `.env`, the secrets directory, default.
"""

import difflib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from dotenv import dotenv_values
from dotenv.parser import parse_stream
from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from rerankq.contract.address import read_address
from rerankq.contract.errors import InvalidSettings
from rerankq.contract.log.lines import LogFormat
from rerankq.contract.log.process import LogLevel
from rerankq.contract.messages import Limits
from rerankq.contract.variables import FORMER, VARIABLES

PREFIX = "RERANKQ_"
DOTENV = ".env"
DOTENV_ENCODING = "utf-8-sig"  # with the mark that editors on Windows put before the first name, or without


def secrets_directory() -> str | None:
    """Where secrets lie as files named like variables, if there is such a place; one that was named must be there."""
    directory = os.environ.get("RERANKQ_SECRETS_DIR")
    if directory and not Path(directory).is_dir():
        raise InvalidSettings(f"RERANKQ_SECRETS_DIR: expected a directory, got {directory}")
    directory = directory or "/run/secrets"
    return directory if Path(directory).is_dir() else None


class SharedSettings(BaseSettings):
    """Where Redis is and how long to wait for it."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file=DOTENV,
        env_file_encoding=DOTENV_ENCODING,
        extra="ignore",
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
        frozen=True,
        env_ignore_empty=True,
    )

    broker_url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
    """The Redis that holds the lanes: `redis://`, `rediss://` (TLS), `unix://` or `sentinel://…?master_name=…`; may
    carry a password, its special characters written %XX. docs/operations.md has the options."""
    result_url: SecretStr | None = None
    """The Redis that holds answers; the broker itself when empty. A second Redis keeps answers from filling it."""
    max_documents: int = Field(default=10_000, ge=1)
    """Documents one request may carry. Checked by the producer and again by the worker."""
    max_document_characters: int = Field(default=1_000_000, ge=1)
    """Characters one document (or the query) may have. Tokenizing and windows take memory and time."""
    max_request_characters: int = Field(default=20_000_000, ge=1)
    """Characters one request may have in all. Larger ones cost memory in Redis and in the worker."""
    max_payload_bytes: int = Field(default=64_000_000, ge=1024)
    """Bytes one message may unpack to. Protects a worker from a message that grows without end."""

    log: LogFormat = "text"
    """How workers and the HTTP face log, a line a record: `text`, or `json`, an object each."""
    log_level: LogLevel = "INFO"
    """The least that they log: `DEBUG`, `INFO`, `WARNING` or `ERROR`. `DEBUG` is that of rerankq itself; libraries,
    which would quote texts in theirs, stay at `INFO`."""

    @field_validator("log_level", mode="before")
    @classmethod
    def _level_in_any_case(cls, level: Any) -> Any:
        return level.upper() if isinstance(level, str) else level

    @field_validator("broker_url", "result_url")
    @classmethod
    def _url_is_redis(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None:
            read_address(url.get_secret_value())
        return url

    @property
    def effective_result_url(self) -> str:
        """Where answers are kept, the default resolved."""
        return (self.result_url or self.broker_url).get_secret_value()

    @property
    def limits(self) -> Limits:
        """How large one request may be."""
        return Limits(self.max_documents, self.max_document_characters, self.max_request_characters)

    @classmethod
    def load(cls, **overrides: Any) -> Self:
        """Read the settings; say in one line what is wrong.

        Raises:
            InvalidSettings: a variable is misspelt or its value out of bounds.
        """
        refuse_misspelt(os.environ)
        refuse_misspelt(read_dotenv())
        try:
            # pydantic-settings takes the directory by an underscored name that type checkers cannot see
            return cls(_secrets_dir=secrets_directory(), **overrides)  # pyright: ignore[reportCallIssue]
        except ValidationError as error:
            raise InvalidSettings(_in_one_line(error)) from None
        except SettingsError as error:
            raise InvalidSettings(
                f"a secret in {secrets_directory()}, which RERANKQ_SECRETS_DIR may name, cannot be read: "
                f"{_why(error.__cause__)}"
            ) from None


def read_dotenv() -> Mapping[str, str | None]:
    """What `.env` says; nothing where there is none, or a directory, as a virtual environment may be."""
    try:
        _refuse_unread_lines()
        return dotenv_values(DOTENV, encoding=DOTENV_ENCODING)
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSettings(
            f"{Path(DOTENV).absolute()} cannot be read: {_why(error)}; `iconv -t UTF-8` converts a text"
        ) from None


def _refuse_unread_lines() -> None:
    """dotenv leaves out a line it cannot read, and a default would hold in its place."""
    if not Path(DOTENV).is_file():
        return
    with Path(DOTENV).open(encoding=DOTENV_ENCODING) as lines:
        for binding in parse_stream(lines):
            if binding.error and PREFIX in binding.original.string.upper():
                raise InvalidSettings(
                    f"{Path(DOTENV).absolute()} line {binding.original.line} cannot be read; "
                    "expected RERANKQ_NAME=value, a quote closed where one is opened"
                )


def _why(error: BaseException | None) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"expected UTF-8, got another byte at {error.start}"
    return (isinstance(error, OSError) and error.strerror) or type(error).__name__


def refuse_misspelt(environment: Iterable[str]) -> None:
    """Refuse a `RERANKQ_…` variable that no setting reads.

    Raises:
        InvalidSettings: naming it and the nearest known one, or what holds in its place.
    """
    for name in _unknown(environment):
        if name.upper() in FORMER:
            raise InvalidSettings(
                f"{name} is no setting any more: {FORMER[name.upper()]}; take it out", {"variable": name}
            )
        near = difflib.get_close_matches(name, VARIABLES, n=1)
        hint = f"; did you mean {near[0]}?" if near else "; `rerankq settings` lists the known ones"
        raise InvalidSettings(f"no setting is called {name}{hint}", {"variable": name})


def _unknown(environment: Iterable[str]) -> Iterable[str]:
    return sorted(
        name for name in environment if name.upper().startswith(PREFIX) and name.upper() not in VARIABLES
    )


def _in_one_line(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    reason = first["msg"].removeprefix("Value error, ")
    if first["type"] == "literal_error":  # a choice, no secret
        told = error.errors(include_url=False)[0]
        reason = f"expected {told.get('ctx', {})['expected']}, got {told['input']!r}"
    if not first["loc"]:
        return reason
    return f"{PREFIX}{str(first['loc'][0]).upper()}: {reason}"
