"""Other people's reranking clients, of today's versions, pointed at a `rerankq serve` before a real model.

One service and one server for all; the clients of an environment ask in one process, `reranking_clients.py`.
"""

import json
import os
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from rerankq import Ranking
from tests.conftest import REPOSITORY
from tests.neighbours.environments.face import KEY, face_of
from tests.neighbours.side import node_environment, side_environment
from tests.service import Service

EXTRAS = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
ENVIRONMENTS = {
    "with frameworks": [  # and cohere 5: langchain-cohere takes none newer
        *EXTRAS["langchain"],
        *EXTRAS["llama-index"],
        "cohere-haystack>=11",
        "langchain-classic>=1",
        "langchain-cohere>=0.6",
        "langchain-voyageai>=0.4",
        "llama-index-postprocessor-cohere-rerank>=0.10",
        "llama-index-postprocessor-jinaai-rerank>=0.6",
        "llama-index-postprocessor-siliconflow-rerank>=0.5",
        "llama-index-postprocessor-tei-rerank>=0.6",
        "mixedbread>=0.54",
        "pinecone>=10",
        "pytest>=8",
        "pytest-timeout",
        "voyageai>=0.5",
    ],
    "newest": [
        "cohere>=7",
        "jina-haystack>=2",
        "litellm>=1.106,!=1.107.0",  # that one is said to have been tampered with
        "rerankers[api]>=0.10",
    ],
    "infinity's": ["infinity-client>=0.0.77"],  # wants an older httpx than the others
}
NODES = [
    "@ai-sdk/cohere@3",
    "@langchain/cohere@1",
    "@langchain/core@1",
    "@mixedbread/sdk@0",
    "@pinecone-database/pinecone@8",
    "ai@6",
    "cohere-ai@8",
    "voyageai@0",
]

_STATUSES = ("401", "422", "429", "503")
COHERE = dict(
    zip(
        _STATUSES,
        (
            "UnauthorizedError",
            "UnprocessableEntityError",
            "TooManyRequestsError",
            "ServiceUnavailableError",
        ),
        strict=True,
    )
)
VOYAGE = dict(
    zip(
        _STATUSES,
        ("AuthenticationError", "MalformedRequestError", "RateLimitError", "ServiceUnavailableError"),
        strict=True,
    )
)
LITELLM = {**VOYAGE, "422": "BadRequestError"}
PINECONE = dict(
    zip(_STATUSES, ("UnauthorizedError", "ApiError", "RateLimitError", "ServiceError"), strict=True)
)
MIXEDBREAD = dict(
    zip(
        _STATUSES,
        ("AuthenticationError", "UnprocessableEntityError", "RateLimitError", "InternalServerError"),
        strict=True,
    )
)
TOLD = dict.fromkeys(_STATUSES, "RuntimeError")
"""One class for all, with our message."""
DEAF: dict[str, str] = {}
"""It does not look at a reply's status, whoever's, and trips over what is in it."""
OF_THE_AI_SDK = dict.fromkeys(_STATUSES, "APICallError")
NODE_VOYAGE = dict.fromkeys(_STATUSES, "VoyageAIError")
NODE_PINECONE = {"401": "PineconeAuthorizationError", "422": "PineconeUnprocessableEntityError"}
UNREAD = {"401": "UnexpectedStatus", "429": "UnexpectedStatus", "503": "UnexpectedStatus"}
"""It reads a 422 by the schema of FastAPI alone."""

_ADDRESSED_AS_COHERE = ("cohere_v2", "cohere_v2_async", "cohere_v1", "cohere_v1_async")
CLIENTS = [
    *(("with frameworks", name, COHERE) for name in _ADDRESSED_AS_COHERE),
    *(("newest", name, COHERE) for name in _ADDRESSED_AS_COHERE),
    ("with frameworks", "langchain_cohere", COHERE),
    ("with frameworks", "langchain_voyageai", VOYAGE),
    ("with frameworks", "llama_index_cohere", COHERE),
    ("with frameworks", "llama_index_jina", TOLD),
    ("with frameworks", "llama_index_siliconflow", TOLD),
    ("with frameworks", "llama_index_tei", DEAF),
    ("with frameworks", "haystack_cohere", COHERE),
    ("with frameworks", "voyageai", VOYAGE),
    ("with frameworks", "voyageai_async", VOYAGE),
    ("with frameworks", "pinecone", PINECONE),
    ("with frameworks", "mixedbread", MIXEDBREAD),
    ("newest", "haystack_jina", TOLD),
    ("newest", "rerankers", DEAF),
    ("newest", "litellm_cohere", LITELLM),
    ("newest", "litellm_hosted_vllm", LITELLM),
    ("newest", "litellm_jina_ai", LITELLM),
    ("newest", "litellm_litellm_proxy", LITELLM),
    ("newest", "litellm_huggingface", {**LITELLM, "422": "APIError"}),
    ("newest", "litellm_voyage", LITELLM),
    ("newest", "litellm_azure_ai", LITELLM),
    ("newest", "litellm_together_ai", LITELLM),
    ("newest", "litellm_fireworks_ai", LITELLM),
    ("newest", "litellm_scaleway", LITELLM),
    ("newest", "litellm_infinity", LITELLM),
    ("newest", "litellm_router", LITELLM),
    ("infinity's", "infinity", UNREAD),
    ("node's", "node_cohere_v2", COHERE),
    ("node's", "node_cohere_v1", COHERE),
    ("node's", "node_langchain_cohere", COHERE),
    ("node's", "node_ai_sdk", OF_THE_AI_SDK),
    ("node's", "node_voyageai", NODE_VOYAGE),
    ("node's", "node_pinecone", NODE_PINECONE),
    ("node's", "node_mixedbread", MIXEDBREAD),
]
EACH = pytest.mark.parametrize(
    ("environment", "name", "errors"),
    CLIENTS,
    ids=[f"{name}, {environment}" for environment, name, _ in CLIENTS],
)

QUERY = "中国的首都是哪里？"
DOCUMENTS = [
    "上海是中国最大的城市和经济中心。",
    "北京是中国的政治中心和首都。",
    'Pandas 🐼 eat "bamboo"\n\tand sleep.',
    "Πεκίνο",
]
ASKED: dict[str, tuple[str, list[str], int | None, bool]] = {
    "all": (QUERY, DOCUMENTS, None, True),
    "best two": (QUERY, DOCUMENTS, 2, True),
    "401": (QUERY, DOCUMENTS, 2, False),
    **{status: (f"refuse {status}", DOCUMENTS, 2, True) for status in ("422", "429", "503")},
}
"""Query, documents, how many to give back, whether the key is the right one."""


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with Service() as running:
        yield running


@pytest.fixture(scope="module")
def url(service: Service) -> Iterator[str]:
    with face_of(service) as address:
        yield address


@pytest.fixture(scope="module")
def ours(service: Service) -> Ranking:
    return service.client.rerank(QUERY, DOCUMENTS, timeout=30)


@cache
def answers(environment: str, url: str) -> dict[str, Any]:
    """What came of each request of each client in this environment."""
    names = [name for where, name, _ in CLIENTS if where == environment]
    done = subprocess.run(
        [*_program(environment), url, KEY, json.dumps(ASKED), *names],
        env={**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"},  # it would ask the internet for prices
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told = [line.removeprefix("ANSWERS ") for line in done.stdout.splitlines() if line.startswith("ANSWERS ")]
    return {name: came for line in told for name, came in json.loads(line).items()}


def _program(environment: str) -> list[Path | str]:
    here = Path(__file__).parent
    if environment != "node's":
        return [side_environment(*ENVIRONMENTS[environment]), here / "reranking_clients.py"]
    beside_its_packages = node_environment(*NODES) / "reranking_clients.mjs"
    shutil.copy(here / beside_its_packages.name, beside_its_packages)
    return ["node", beside_its_packages]


@EACH
def test_a_client_ranks_as_ours_does(
    environment: str, name: str, errors: dict[str, str], url: str, ours: Ranking
) -> None:
    expected = [(result.index, pytest.approx(result.relevance_score, abs=1e-6)) for result in ours]

    came = answers(environment, url)[name]

    assert [tuple(place) for place in came["all"]] == expected, came
    assert [tuple(place) for place in came["best two"]] == expected[:2], came


@EACH
def test_a_client_raises_its_own_error_for_a_refusal(
    environment: str, name: str, errors: dict[str, str], url: str
) -> None:
    came = answers(environment, url)[name]

    for status, error in errors.items():
        assert error in came[status]["error"], came[status]
        assert "🐼" not in came[status]["says"], "a reply told a text"


def test_the_adapters_rank_over_the_queue_and_over_http(service: Service, url: str) -> None:
    suite = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/integrations"]
    asked = {"ASKED_QUEUE": service.redis.url, "ASKED_FACE": url, "ASKED_KEY": KEY}

    done = subprocess.run(
        [side_environment(*ENVIRONMENTS["with frameworks"]), *suite],
        cwd=REPOSITORY,
        env={**os.environ, **asked},
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert "skipped" not in done.stdout
