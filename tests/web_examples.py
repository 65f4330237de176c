"""The examples of docs/web.md as the files that they are: each block that begins with a file's name."""

import re
from pathlib import Path

from tests.conftest import REPOSITORY

_BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)
_NAME = re.compile(r"# (\w+\.py)\n")


def blocks() -> list[str]:
    """All blocks of Python, in order."""
    return _BLOCK.findall((REPOSITORY / "docs" / "web.md").read_text(encoding="utf-8"))


def write_examples(directory: Path) -> None:
    """Those that name their file, word for word."""
    for block in blocks():
        named = _NAME.match(block)
        if named:
            (directory / named[1]).write_text(block, encoding="utf-8")
