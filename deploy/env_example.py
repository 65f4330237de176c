"""Print `.env.example`: every setting of both sides with its text, unit, bounds and default.

    python deploy/env_example.py > .env.example

Knows the settings classes only. Whatever is said of a setting is said there, once.
"""

import textwrap
from collections.abc import Iterator, Sequence

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from rerankq.contract.closed_pipes import ends_quietly
from rerankq.contract.settings import PREFIX, SharedSettings
from rerankq.contract.variables import FIRST, NOT_FOR_PEOPLE
from rerankq.http.settings import HttpSettings
from rerankq.settings import ClientSettings
from rerankq_worker.settings import WorkerSettings

WIDTH = 110
HEAD = """\
# Every setting of rerankq, each commented out at its default. Copy to `.env`, uncomment what you change.
# The environment wins over `.env`, `.env` over files in /run/secrets (or RERANKQ_SECRETS_DIR); empty means default.
# Made by `python deploy/env_example.py > .env.example` from the settings classes; edit those, not this.
"""
UNITS = ("seconds", "bytes", "tokens", "characters", "pairs", "documents", "jobs", "fraction")
BOUNDS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}

Fields = dict[str, FieldInfo]


def env_example() -> str:
    """The whole text of `.env.example`."""
    sides = {
        "Both sides: producer and worker": SharedSettings.model_fields,
        "Producer: whoever asks": ClientSettings.model_fields,
        "HTTP: `rerankq serve`": HttpSettings.model_fields,
        "Worker: whoever answers": WorkerSettings.model_fields,
    }
    known = {name: field for fields in sides.values() for name, field in fields.items()}
    first, last = _of(FIRST, known), _of(NOT_FOR_PEOPLE, known)
    groups, told = {"First: all that most people set": first}, {**first, **last}
    for title, fields in sides.items():
        groups[title] = {name: field for name, field in fields.items() if name not in told}
        told |= fields
    groups["Not for people: for tests, and what the launcher sets"] = last
    return HEAD + "".join(_group(title, fields) for title, fields in groups.items())


def _of(variables: Sequence[str], known: Fields) -> Fields:
    return {name: known[name] for name in (variable.removeprefix(PREFIX).lower() for variable in variables)}


def _group(title: str, fields: Fields) -> str:
    rule = f"# --- {title} ".ljust(WIDTH, "-")
    return f"\n\n{rule}\n" + "".join(_entry(name, field) for name, field in fields.items())


def _entry(name: str, field: FieldInfo) -> str:
    text = " ".join((field.description or "").split())
    lines = [*textwrap.wrap(text, WIDTH - 2), *_facts(name, field)]
    prose = "".join(f"# {line}\n" for line in lines)
    return f"\n{prose}#{PREFIX}{name.upper()}={_default(field)}\n"


def _facts(name: str, field: FieldInfo) -> list[str]:
    """One line of unit, choices and bounds; none where nothing is to be said."""
    facts = [*_unit(name), *_choices(field), *_bounds(field)]
    return [f"({'; '.join(facts)})"] if facts else []


def _unit(name: str) -> Iterator[str]:
    last_word = name.rpartition("_")[2]
    if last_word in UNITS:
        yield last_word


def _choices(field: FieldInfo) -> Iterator[str]:
    choices = getattr(field.annotation, "__args__", ())
    if choices and all(isinstance(choice, str) for choice in choices):
        yield "one of " + ", ".join(choices)
    if field.annotation is bool:
        yield "one of true, false"


def _bounds(field: FieldInfo) -> Iterator[str]:
    for constraint in field.metadata:
        for attribute, words in BOUNDS.items():
            bound = getattr(constraint, attribute, None)
            if bound is not None:
                yield f"{words} {_number(bound)}"


def _default(field: FieldInfo) -> str:
    value = field.default
    if value is None:
        return ""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, bool):
        return str(value).lower()
    return _number(value) if isinstance(value, int | float) else str(value)


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else str(value)


if __name__ == "__main__":
    with ends_quietly():
        print(env_example(), end="")
