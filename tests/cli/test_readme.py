"""The first screen of the README, as it stands."""

import re
import subprocess
import sys

from rerankq.local.stack import LocalStack
from tests.conftest import REPOSITORY

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_its_first_program_prints_what_stands_below_it(stack: LocalStack) -> None:
    blocks = _BLOCK.findall((REPOSITORY / "README.md").read_text(encoding="utf-8"))
    first = next(index for index, (language, _) in enumerate(blocks) if language == "python")
    code, printed = blocks[first][1], blocks[first + 1][1]

    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**stack.worker_environment(), "RERANKQ_REDIS_TIMEOUT_SECONDS": "10"},
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout == printed
