"""Libraries in the place of the real ones, for what becomes of their absence: light, and with versions of their own."""

import zipfile
from pathlib import Path

LIGHT = {
    "torch": "class version:\n    cuda = None\nclass cuda:\n    is_available = staticmethod(lambda: False)\n",
    "transformers": "",
}
"""What an import of torch and transformers comes to, in a moment."""
BLOCKER = """
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder

class Blocked(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == {name!r} and PathFinder.find_spec(name, [{installed!r}]) is None:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocked())
"""


def light_libraries(directory: Path) -> Path:
    """A directory for PYTHONPATH."""
    directory.mkdir(exist_ok=True)
    for name, source in LIGHT.items():
        (directory / f"{name}.py").write_text(source)
    return directory


def block(directory: Path, name: str, installed: Path) -> None:
    """A Python with this directory on its path has no such module, unless it was installed there."""
    (directory / "sitecustomize.py").write_text(BLOCKER.format(name=name, installed=str(installed)))


def pretend_installed(directory: Path, name: str, version: str) -> None:
    """A package of that version, as far as its metadata goes."""
    metadata = directory / f"{name}-{version}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def wheel(directory: Path, name: str, version: str) -> None:
    """An empty package to install from `directory`."""
    directory.mkdir(exist_ok=True)
    module, about = name.replace("-", "_"), f"{name.replace('-', '_')}-{version}.dist-info"
    with zipfile.ZipFile(directory / f"{module}-{version}-py3-none-any.whl", "w") as file:
        file.writestr(f"{module}/__init__.py", "")
        file.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        file.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{about}/RECORD", "")
