"""Which files an input names: one, all in a directory, or all that match a glob; in natural order. Opens none of them.

Left out is what is clearly no data, and what a run of ours has made of the files beside it.
"""

import glob
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from rerankq.bulk import STANDARD_STREAM
from rerankq.bulk.formats.names import SIDECAR_SUFFIX
from rerankq.bulk.formats.remote import files_through, is_remote, remote_names
from rerankq.contract.errors import InvalidRequest

_NO_DATA = re.compile(
    r"(readme|license|licence|notice)[^/]*|[^/]*\.(md|crc|md5|sha1|sha256|log|lock)|"
    r"(dataset_infos?|dataset_dict|state)\.json",  # beside the Arrow files of a Hugging Face data set
    re.IGNORECASE,
)
_BESIDE_AN_OUTPUT = re.compile(
    r"(.*?)(\.rerankq\.json\.unfinished|\.unfinished|\.rerankq\.lines\.jsonl|\.errors(\.round\d+)?\.jsonl)"
)
_DIGITS = re.compile(r"([0-9]+)")


def files_of(path: str) -> list[str]:
    """The files that a path names; `part-2` before `part-10`."""
    if path == STANDARD_STREAM:
        return [path]
    if len(links := files_through(path)) == 1:
        [path] = links
    named = remote_names(path) if is_remote(path) else _local_names(path)
    if named == [path]:
        return named
    here = {Path(name).name: name for name in named}
    chosen = [name for name in named if not (_is_no_data(name, path) or _is_ours(name, path, here))]
    if not chosen:
        raise InvalidRequest(f"there is no file with data in {path}", {"field": "input"})
    return sorted(chosen, key=_natural)


def _local_names(path: str) -> list[str]:
    try:
        if Path(path).is_dir():
            return list(_below(path))
        if Path(path).exists() or not glob.has_magic(path):
            return [path]
        found = glob.glob(path, recursive=True)  # noqa: PTH207 - a pattern may be absolute
        if "**" in path:  # it follows links, also to what is above them
            found = {Path(one).resolve(): one for one in sorted(found, key=len, reverse=True)}.values()
        below = (name for one in found for name in (_below(one) if Path(one).is_dir() else [one]))
        return [name for name in dict.fromkeys(below) if not _is_empty(name)]
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be read: {error}", {"field": "input"}) from error


def _below(directory: str) -> Iterator[str]:
    """Every file in a directory and below; none that is hidden, or empty as Spark leaves them."""
    for entry in os.scandir(directory):
        leads_above = entry.is_symlink() and Path(directory).resolve().is_relative_to(
            Path(entry.path).resolve()
        )
        if entry.name[0] in "._" or leads_above:
            continue
        if entry.is_dir():
            yield from _below(entry.path)
        elif not _is_empty(entry.path):
            yield entry.path


def _is_empty(path: str) -> bool:
    return Path(path).exists() and Path(path).stat().st_size == 0


def _is_no_data(name: str, asked: str) -> bool:
    """Whether a name is hidden or that of a note, unless a glob asks for names that begin or end like it."""
    last, asked_last = name.rpartition("/")[2], asked.rpartition("/")[2]
    if glob.has_magic(asked_last):
        is_hidden = last[0] in "._" and asked_last[0] != last[0]
        is_asked = Path(asked_last).suffix not in ("", ".*") and Path(asked_last).suffix == Path(last).suffix
        return is_hidden or (not is_asked and _NO_DATA.fullmatch(last) is not None)
    below = name.removeprefix(asked).split("/")
    return any(part[0] in "._" for part in below if part) or _NO_DATA.fullmatch(last) is not None


def _is_ours(name: str, asked: str, here: Mapping[str, str]) -> bool:
    """Whether a run of ours has made it of others that are here; what stands beside an output is never data."""
    if name.endswith(SIDECAR_SUFFIX):
        return True
    beside = _BESIDE_AN_OUTPUT.fullmatch(name)
    if beside is not None:
        sidecar = Path(beside[1] + SIDECAR_SUFFIX)
        return (sidecar.name in here or sidecar.exists()) and not asked.endswith(beside[2])
    inputs = {} if is_remote(name) else _inputs(Path(name + SIDECAR_SUFFIX))
    return any(one in here and Path(here[one]).stat().st_size == size for one, size in inputs.items())


def _inputs(sidecar: Path) -> dict[str, int | None]:
    """The names of the files that a run has read, and their sizes."""
    try:
        return {Path(one["path"]).name: one["size"] for one in json.loads(sidecar.read_bytes())["inputs"]}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _natural(name: str) -> tuple[list[str | int], str]:
    parts = _DIGITS.split(name)
    return [int(part) if index % 2 else part for index, part in enumerate(parts)], name
