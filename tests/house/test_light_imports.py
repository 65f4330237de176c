"""What a producer loads: `import rerankq` and `rerankq --help` stay quick by loading little."""

import subprocess
import sys

import pytest

HEAVY = {"torch", "transformers", "numpy", "rerankq_worker", "celery", "kombu", "redis"}


def loaded_by(code: str) -> set[str]:
    """The top-level modules that a fresh Python has after running this code."""
    script = f"{code}\nimport sys\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    "code",
    [
        pytest.param("import rerankq", id="import rerankq"),
        pytest.param(
            "import sys; sys.argv[1:] = ['--help']\n"
            "from rerankq.cli import main\ntry: main()\nexcept SystemExit: pass",
            id="rerankq --help",
        ),
    ],
)
def test_nothing_heavy_is_loaded_before_it_is_needed(code: str) -> None:
    assert loaded_by(code) & HEAVY == set()


def test_a_client_loads_neither_celery_nor_kombu_whatever_version_there_is() -> None:
    loaded = loaded_by("from rerankq import RerankClient")

    assert (
        loaded & {"celery", "kombu", "billiard", "torch", "transformers", "numpy", "rerankq_worker"} == set()
    )
