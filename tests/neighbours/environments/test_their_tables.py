"""`rerankq.bulk` on the tables of libraries that are too large for our own environment."""

import os
import subprocess
from pathlib import Path

from tests.conftest import REPOSITORY
from tests.neighbours.side import side_environment
from tests.redis_server import find_redis_server

LIBRARIES = ["pandas", "polars", "datasets", "pyarrow", "ir_measures", "fsspec"]
TOOLS = ["pytest", "pytest-timeout", "hypothesis"]


def test_tables_of_pandas_polars_and_hugging_face_go_in_and_come_out() -> None:
    python = side_environment(*LIBRARIES, *TOOLS)
    path = os.pathsep.join([str(Path(find_redis_server()).parent), os.environ["PATH"]])
    suite = [
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-W",
        "default",
        "tests/bulk/test_from_python.py",
    ]

    done = subprocess.run(
        [python, *suite], cwd=REPOSITORY, env={**os.environ, "PATH": path}, capture_output=True, text=True
    )

    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert "could not import" not in done.stdout
