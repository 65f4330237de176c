"""`OUT.rerankq.json`: what a run is, and how far its output is safe. The one truth that a resume goes by.

The output is written before the sidecar says so; what stands behind the point that the sidecar names is a torn end,
and is cut off. So every row is in the output or in the errors file exactly once, whenever the run was killed.
"""

import json
import os
from bisect import bisect_left
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from rerankq.bulk.formats.inputs import Identity
from rerankq.bulk.formats.names import SIDECAR_SUFFIX
from rerankq.bulk.output.totals import Totals
from rerankq.contract.errors import InvalidRequest
from rerankq.contract.messages import ModelInfo

SIDECAR_VERSION = 1
_FORMER_SETTINGS = ("judgements", "relevant from grade")  # an output is judged by whatever is named now

Span = tuple[int, int]
"""Positions from the first to before the second."""


class Sidecar(BaseModel):
    """The state of one output."""

    version: int = SIDECAR_VERSION
    run: str
    """Makes the jobs' ids, together with the round and the position."""
    model: ModelInfo
    settings: dict[str, Any]
    """What the output depends on, besides input and model."""
    pack_pairs: int
    inputs: list[Identity]
    round: int = 1
    """1 reads the input; each further one the errors that the one before left."""
    done: list[Span] = Field(default_factory=list)
    """Positions of this round whose rows are safe."""
    first_free: int = 0
    """Places from here on belong to no row of the input; rows of an errors file that lost theirs are numbered so."""
    out_bytes: int = 0
    errors_bytes: int = 0
    errors_digest: str | None = None
    """Of those bytes of the errors file; None in a sidecar of before."""
    whole_bytes: int | None = None
    """Length of a file made of gathered lines, once it is there."""
    is_complete: bool = False
    """This round has reached the end of what it reads."""
    tally: Totals = Field(default_factory=Totals)
    judged_by: str | None = ""
    """Which judgements the sums of quality go by; None when by several, or by none for a part of the run."""

    @property
    def first_open(self) -> int:
        """The first position that is not done."""
        return self.done[0][1] if self.done and self.done[0][0] == 0 else 0

    def covers(self, span: Span) -> bool:
        """Whether all of a span is done."""
        return any(start <= span[0] and span[1] <= stop for start, stop in self.done)


def sidecar_path(out: Path) -> Path:
    """Where the sidecar of an output is."""
    return out.parent / f"{out.name}{SIDECAR_SUFFIX}"  # a directory may be called `.`


def errors_path(out: Path) -> Path:
    """Where the rows that failed go."""
    return out.with_name(f"{out.name}.errors.jsonl")


def is_there(out: Path) -> bool:
    """Whether an output has a sidecar, of whatever version: then a run has begun it."""
    try:
        return "run" in json.loads(sidecar_path(out).read_bytes())
    except (FileNotFoundError, ValueError, TypeError):
        return False


def load(out: Path) -> Sidecar | None:
    """The sidecar of an output, if it has one; refused where it cannot be read, or is of another version."""
    path = sidecar_path(out)
    if not path.exists():
        return None
    try:
        sidecar = Sidecar.model_validate_json(path.read_bytes())
    except ValidationError:
        raise InvalidRequest(
            f"{path} cannot be read as the state of a run; --restart begins anew", {"field": "output"}
        ) from None
    if sidecar.version != SIDECAR_VERSION:
        raise InvalidRequest(
            f"{path} is of version {sidecar.version}, expected {SIDECAR_VERSION}; finish it with the release that "
            "began it, or begin anew with --restart",
            {"field": "output"},
        )
    if sidecar.settings.keys().isdisjoint(_FORMER_SETTINGS):
        return sidecar
    kept = {name: value for name, value in sidecar.settings.items() if name not in _FORMER_SETTINGS}
    return sidecar.model_copy(update={"settings": kept, "judged_by": None})


def save(out: Path, sidecar: Sidecar) -> None:
    """Replace the sidecar in one step; once this returns it survives a power cut."""
    path = sidecar_path(out)
    unfinished = path.with_name(f"{path.name}.unfinished")
    with unfinished.open("wb") as file:
        file.write(sidecar.model_dump_json(indent=1).encode())
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make a rename in it survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def with_span(done: list[Span], span: Span) -> list[Span]:
    """The spans with one more, in order, touching ones joined."""
    place = bisect_left(done, span)
    joined: list[Span] = []
    for start, stop in [*done[:place], span, *done[place:]]:
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], stop)
        else:
            joined.append((start, stop))
    return joined


def refuse_changed(sidecar: Sidecar, settings: dict[str, Any], inputs: list[Identity]) -> None:
    """Refuse to go on with an output that was begun from something else; what changed is named."""
    if len(sidecar.inputs) != len(inputs):
        raise _changed(_in_other_number(sidecar.inputs, inputs))
    for old, new in zip(sidecar.inputs, inputs, strict=True):
        difference = old.difference(new)
        if difference is not None:
            raise _changed(f"the input {new.path} is not the one it was begun with: {difference}")
    for name in {**sidecar.settings, **settings}:
        before, now = sidecar.settings.get(name), settings.get(name)
        if before != now:
            raise _changed(f"it was begun with {name} = {before}, now it is {now}")


def _in_other_number(before: list[Identity], now: list[Identity]) -> str:
    """Which file was added or taken away, by content: a name may have changed."""
    contents = [{(one.head_sha256, one.size) for one in files} for files in (before, now)]
    gone = [one.path for one in before if (one.head_sha256, one.size) not in contents[1]]
    added = [one.path for one in now if (one.head_sha256, one.size) not in contents[0]]
    named = [f"{gone[0]} is gone"] if gone else []
    named += [f"{added[0]} was added"] if added else []
    return f"its input had {len(before)} files and has {len(now)}{': ' if named else ''}{', '.join(named)}"


def refuse_other_model(sidecar: Sidecar, model: ModelInfo) -> None:
    """Refuse to mix the scores of two models in one output."""
    if sidecar.model != model:
        old, new = (f"{one.name}@{one.revision}" for one in (sidecar.model, model))
        raise _changed(f"it was begun with the model {old}, now {new} is served")


def _changed(what: str) -> InvalidRequest:
    return InvalidRequest(
        f"the output cannot be resumed: {what}; --restart begins anew and overwrites it", {"field": "output"}
    )
