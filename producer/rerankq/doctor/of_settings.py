"""The settings: misspelt, out of bounds, contradictory, said twice; and where each that was set came from."""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping

from rerankq.contract.errors import InvalidSettings
from rerankq.contract.findings import Finding, broken, ok, warn
from rerankq.contract.setting_cures import of_refusal, renaming, taking_out
from rerankq.contract.setting_sources import effective
from rerankq.contract.settings import (
    DOTENV,
    PREFIX,
    SharedSettings,
    read_dotenv,
    refuse_misspelt,
    secrets_directory,
)
from rerankq.settings import ClientSettings

Load = Callable[[], SharedSettings]


def findings(of_faces: Iterable[Load] = ()) -> Iterator[Finding]:
    """A line for each that is wrong; one line of origins where none is.

    Args:
        of_faces: read the settings of other faces that are installed here, and refuse what contradicts itself.
    """
    wrong = [*_misspelt()]
    loads: list[Load] = [ClientSettings.load, *of_faces]
    for load in loads if not wrong else ():
        try:
            load()
        except InvalidSettings as error:
            wrong.append(of_refusal(str(error)))
    yield from dict.fromkeys(wrong)
    if wrong:
        return
    yield from _said_twice()
    told = {name: each for load in loads for name, each in effective(load()).items()}
    chosen = [f"{name} ({each['source']})" for name, each in told.items() if each["source"] != "default"]
    yield ok("settings", f"set are {', '.join(chosen)}" if chosen else "all have their defaults")


def _misspelt() -> Iterator[Finding]:
    for place, names in (("environment", os.environ), (DOTENV, _dotenv())):
        for name in sorted(names):
            try:
                refuse_misspelt([name])
            except InvalidSettings as error:
                yield broken("settings", f"{error} (from {place})", _renaming(name, str(error)))
    try:
        read_dotenv()
        secrets_directory()
    except InvalidSettings as error:
        yield of_refusal(str(error))


def _dotenv() -> Mapping[str, str | None]:
    try:
        return read_dotenv()
    except InvalidSettings:
        return {}


def _renaming(name: str, message: str) -> str:
    meant = re.search(rf"did you mean ({PREFIX}\w+)\?", message)
    return renaming(name, meant[1]) if meant else taking_out(name)


def _said_twice() -> Iterator[Finding]:
    """Two places that contradict each other: the first wins, and somebody edits the other in vain."""
    for name, value in read_dotenv().items():
        if name.startswith(PREFIX) and value and os.environ.get(name, value) != value:
            yield warn(
                "settings",
                f"{name} is set in the environment and otherwise in {DOTENV}; the environment's holds",
                f"unset {name}",
            )
