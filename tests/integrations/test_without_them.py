"""An adapter whose framework is not installed says which extra brings it."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("module", "framework", "extra"),
    [
        ("rerankq.integrations.langchain", "langchain_core", "rerankq[langchain]"),
        ("rerankq.integrations.llama_index", "llama_index", "rerankq[llama-index]"),
    ],
)
def test_an_adapter_without_its_framework_names_the_extra(module: str, framework: str, extra: str) -> None:
    code = f"import sys; sys.modules[{framework!r}] = None\nimport {module}"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert done.stderr.splitlines()[-1].startswith("ImportError: ")
    assert f"pip install '{extra}'" in done.stderr.splitlines()[-1]
