"""The tree in docs/architecture.md, drawn from the files: `python -m tests.house.tree` (or `make map`) writes it.

A module's line is the first sentence of its docstring, so that what it is for is said once.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.conftest import REPOSITORY

MAP = REPOSITORY / "docs" / "architecture.md"
ROOMS = ("producer/rerankq", "worker/rerankq_worker")
UNLISTED = ("__init__.py", "__pycache__", "py.typed", "NOTICE")
TEXT_COLUMN = 30
DATA = {
    "demo_jobs.json": "The three jobs of `rerankq demo`",
    "page.html": "The page at `/`: script and style inside, nothing from elsewhere",
    "golden.json": "Published scores that a known model must meet",
    "config.json": "The small model's shape",
    "model.safetensors.xz": "The small model's weights, packed",
    "special_tokens_map.json": "The small model's tokens with a role",
    "tokenizer.json": "The small model's tokenizer",
    "tokenizer_config.json": "How the small model's tokenizer is to be read",
}
_TREE = re.compile(r"(?<=## The tree\n)(.*?```\n)(.*?)(?=```\n)", re.DOTALL)


def tree() -> str:
    """Every folder and module of both rooms, a line each."""
    return "".join(line for room in ROOMS for line in _lines(REPOSITORY / room, room, 0))


def tree_in(text: str) -> str:
    """The tree as a document has it."""
    found = _TREE.search(text)
    assert found is not None, f"{MAP} has no section called 'The tree'"
    return found[2]


def _lines(directory: Path, name: str, depth: int) -> Iterator[str]:
    yield _line(f"{name}/", _first_sentence(directory / "__init__.py"), depth)
    inside = [path for path in directory.iterdir() if path.name not in UNLISTED and _is_filled(path)]
    for path in sorted(inside, key=lambda path: (path.is_file(), path.name)):
        if path.is_dir():
            yield from _lines(path, path.name, depth + 1)
        else:
            yield _line(path.name, _purpose(path), depth + 1)


def _is_filled(path: Path) -> bool:
    """Not so where modules have moved away and left behind what Python had cached of them."""
    return path.is_file() or any(each.is_file() and each.suffix != ".pyc" for each in path.rglob("*"))


def _line(name: str, text: str, depth: int) -> str:
    return f"{'  ' * depth + name + ' ':<{TEXT_COLUMN}}{text}\n"


def _purpose(path: Path) -> str:
    return _first_sentence(path) if path.suffix == ".py" else DATA[path.name]


def _first_sentence(module: Path) -> str:
    docstring = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8")))
    assert docstring, f"{module} does not say what it is for"
    paragraph = docstring.split("\n\n")[0].replace("\n", " ")
    return re.split(r"\.(?=\s|$)", paragraph)[0]


if __name__ == "__main__":
    old = MAP.read_text(encoding="utf-8")
    MAP.write_text(_TREE.sub(lambda found: found[1] + tree(), old), encoding="utf-8")
