"""Every Redis key of ours is named in one place."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.conftest import REPOSITORY

ROOMS = [REPOSITORY / "producer/rerankq", REPOSITORY / "worker/rerankq_worker"]
KEYS = ROOMS[0] / "contract/keys.py"
_KEY = re.compile(r"rerankq(:[a-z]|\.(interactive|bulk)$)|celery-task-meta-")


def test_no_file_but_keys_names_a_key() -> None:
    sources = {path for room in ROOMS for path in room.rglob("*.py")}

    named = [
        (source.name, text) for source in sources - {KEYS} for text in _texts(source) if _KEY.match(text)
    ]

    assert named == []


def _texts(source: Path) -> Iterator[str]:
    """The string literals of a file, its docstrings aside."""
    tree = ast.parse(source.read_text(encoding="utf-8"))
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node.value
