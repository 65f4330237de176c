"""An adapter whose framework is not installed says which extra brings it."""

import subprocess
import sys

import pytest
from pydantic import ValidationError

from rerankq import InvalidSettings
from rerankq.integrations.asking import Asks


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


@pytest.mark.parametrize("url", ["localhost:8787", "ftp://host", "host"])
def test_an_address_of_neither_kind_is_refused_with_both(url: str) -> None:
    with pytest.raises(InvalidSettings, match=r"^url: .*redis://.*http://"):
        Asks(url=url)


def test_an_argument_that_nobody_knows_is_refused_without_its_value() -> None:
    with pytest.raises(ValidationError) as refused:
        Asks(apikey="a-secret")  # type: ignore[call-arg]

    assert "apikey" in str(refused.value)
    assert "a-secret" not in str(refused.value)
