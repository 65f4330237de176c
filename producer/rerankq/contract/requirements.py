"""Whether what is installed is what rerankq was built for, as its own metadata says."""

import importlib.metadata
import shlex
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

from rerankq.contract.findings import Finding, broken, ok, skipped

if TYPE_CHECKING:
    from packaging.requirements import Requirement


def version_of(name: str) -> str | None:
    """Of an installed package; None where it is not there."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def pip_install(*names: str) -> str:
    """The command that brings packages as rerankq wants them."""
    wanted = {_normal(each.name): f"{each.name}{each.specifier}" for each in _wanted(("worker",))}
    return "pip install " + " ".join(shlex.quote(wanted.get(_normal(name), name)) for name in names)


def check_requirements(
    check: str, told: str, extras: Sequence[str] = (), may_lack: Collection[str] = ()
) -> Finding:
    """`told` where all is as wanted, else what is missing or of another version, with the command that mends it.

    Args:
        extras: of rerankq, whose packages are wanted as well.
        may_lack: packages that may be absent, not of another version.
    """
    try:
        unmet = {each.name: each for each in _wanted(extras) if not _is_met(each, may_lack)}
    except ImportError:
        return skipped(check, f"{told}; whether they fit is not known without the package `packaging`")
    if not unmet:
        return ok(check, told)
    got = ", ".join(f"{name} {version_of(name) or 'missing'}" for name in unmet)
    wanted = ", ".join(f"{each.name}{each.specifier}" for each in unmet.values())
    return broken(check, f"expected {wanted}, got {got}", pip_install(*unmet))


def _wanted(extras: Sequence[str]) -> "Iterator[Requirement]":
    """What rerankq's own metadata asks for here; nothing where it is no installed package."""
    # Brought by the worker and many others, not by rerankq alone.
    from packaging.requirements import Requirement

    try:
        told = importlib.metadata.requires("rerankq") or ()
    except importlib.metadata.PackageNotFoundError:
        return
    for text in told:
        requirement, wanted = Requirement(text), ("", *extras)
        if requirement.marker is None or any(requirement.marker.evaluate({"extra": it}) for it in wanted):
            yield requirement


def _is_met(requirement: "Requirement", may_lack: Collection[str]) -> bool:
    version = version_of(requirement.name)
    if version is None:
        return _normal(requirement.name) in may_lack
    return requirement.specifier.contains(version, prereleases=True)


def _normal(name: str) -> str:
    return name.replace("_", "-").lower()
