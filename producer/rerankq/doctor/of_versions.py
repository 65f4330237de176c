"""What is installed here of the asking side, against what rerankq asks for."""

import platform
from collections.abc import Iterator

import rerankq
from rerankq.contract.findings import Finding
from rerankq.contract.requirements import check_requirements, version_of

_SHOWN = ("redis", "pydantic")


def findings() -> Iterator[Finding]:
    """One line: fine as a whole, or what is missing or of another version."""
    there = [f"{name} {version}" for name in _SHOWN if (version := version_of(name))]
    told = ", ".join([f"rerankq {rerankq.__version__}", f"Python {platform.python_version()}", *there])
    yield check_requirements("versions", told)
