"""What only a GPU can show: the CPU's numbers, in little memory, and an out-of-memory survived.

On a host with a GPU and no Redis: `python -m pytest --confcutdir=tests/engine tests/engine/test_engine_on_cuda.py`.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from rerankq_worker.engine import Engine, attention
from rerankq_worker.engine.batch import Batch, lay_out
from rerankq_worker.engine.linears import choose_linear
from rerankq_worker.engine.precision import choose_precision
from rerankq_worker.engine.unpadded_model import UnpaddedModel
from rerankq_worker.model.family import XLM_ROBERTA
from tests.engine.definition import Plain, random_rows
from tests.model_dirs import SHAPES, build_model_dir, xlmr_config

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is visible"),
    pytest.mark.filterwarnings("default"),  # a GPU host has a torch of its own, and what that warns of
]

CUDA = torch.device("cuda")
LENGTHS = [1, 2, 3, 8, 8, 8, 31, 120, 500, 1024]
TWO_GB = 2 * 2**30
XLMR_VOCABULARY = 250_002


@pytest.fixture(scope="module")
def mini_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Heads of 32 and weights of a trained model's size: fp16 costs what it costs there."""
    return build_model_dir(tmp_path_factory.mktemp("models") / "mini", "mini")


@pytest.fixture(scope="module")
def exact(mini_dir: Path) -> Engine:
    return Engine.load(mini_dir, device="cpu", dtype="fp32")


@pytest.fixture
def half(mini_dir: Path) -> Engine:
    return Engine.load(mini_dir, device="cuda", dtype="fp16", max_batch_pairs=16)


def test_fp32_on_cuda_gives_the_score_by_definition(tiny_dir: Path, plain_logits: Plain) -> None:
    engine = Engine.load(
        tiny_dir, device="cuda", dtype="fp32", max_length_tokens=8192, max_batch_tokens=16_384
    )
    rows = random_rows([*LENGTHS, 8192])

    assert np.abs(engine.score(rows) - plain_logits(rows)).max() <= 1e-4


def test_fp16_costs_a_few_hundredths_at_most(half: Engine, exact: Engine) -> None:
    half.warm_up()
    rows = random_rows(LENGTHS)

    assert np.abs(half.score(rows) - exact.score(rows)).max() <= 0.02


def test_a_pair_scores_the_same_whoever_shares_its_batch(half: Engine) -> None:
    half.warm_up()
    rows = random_rows(LENGTHS)
    alone = np.concatenate([half.score([row]) for row in rows])

    assert np.abs(half.score(rows) - alone).max() <= 0.02


def test_batches_begun_ahead_give_the_scores_of_batches_awaited(half: Engine) -> None:
    half.warm_up()
    batches = [random_rows([n, 2 * n]) for n in (5, 40, 300, 7)]
    awaited = [half.score(batch) for batch in batches]

    finishes = [half.begin(batch) for batch in batches]

    assert all(np.array_equal(finish(), scores) for finish, scores in zip(finishes, awaited, strict=True))


def test_a_recorded_pass_gives_the_scores_of_the_first_time_bit_for_bit(half: Engine) -> None:
    half.warm_up()
    batches = [random_rows([n, 2 * n]) for n in (5, 40, 300, 7)]

    first, *later = ([half.score(batch) for batch in batches] for _ in range(3))

    assert all(np.array_equal(a, b) for again in later for a, b in zip(first, again, strict=True))
    assert any(each.is_recorded for each in half._forward._passes.values())  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("only_firsts", "window"),
    [(False, None), (True, None), (False, 64)],
    ids=["all ask", "firsts ask", "all ask within a window"],
)
@pytest.mark.parametrize("chosen", [True, False], ids=["chosen here", "padded"])
def test_attention_agrees_with_the_cpu(chosen: bool, only_firsts: bool, window: int | None) -> None:
    """In fp16, on slices of one projection, as the model hands them over."""
    way = attention.choose_attention(CUDA, torch.float16, 64) if chosen else attention.padded
    batch: Batch = lay_out(random_rows(LENGTHS), CUDA)
    torch.manual_seed(0)
    both = torch.randn(sum(LENGTHS), 3, 4, 64, device=CUDA, dtype=torch.float16)
    queries, keys, values = both.unbind(1)
    if only_firsts:
        queries = queries.index_select(0, batch.firsts)

    got = way(queries, keys, values, batch, window).float().cpu()

    expected = attention.per_row(
        *(x.float().cpu() for x in (queries, keys, values)), lay_out(random_rows(LENGTHS), CUDA), window
    )
    torch.testing.assert_close(got, expected, atol=4e-3, rtol=0)


def test_a_row_the_model_has_no_place_for_never_reaches_the_device(half: Engine) -> None:
    with pytest.raises(ValueError, match="expected token ids of 0 to"):
        half.score([np.array([0, 10**6, 2], dtype=np.int32)])
    with pytest.raises(ValueError, match="to have 1 to 1024 tokens"):
        half.score(random_rows([1025]))

    assert np.isfinite(half.score(random_rows([1024]))).all()


def test_warm_up_finds_a_budget_that_fits(half: Engine) -> None:
    half.warm_up()

    tokens = half.info.max_batch_tokens
    assert 1024 <= tokens <= 16 * 1024
    assert np.isfinite(half.score(random_rows([1024] * (tokens // 1024)))).all()
    assert half.info.max_batch_tokens == tokens  # it was not halved


@pytest.fixture
def little_memory(half: Engine) -> Iterator[Engine]:
    """An engine that may take 48 MiB more than its weights."""
    half.score(random_rows([8]))  # what the libraries take for themselves is taken before the limit
    torch.cuda.empty_cache()
    allowed = torch.cuda.memory_reserved() + 48 * 2**20
    torch.cuda.set_per_process_memory_fraction(allowed / torch.cuda.get_device_properties(CUDA).total_memory)
    yield half
    torch.cuda.set_per_process_memory_fraction(1.0)


def test_a_batch_that_does_not_fit_is_halved_and_its_size_remembered(
    little_memory: Engine, exact: Engine
) -> None:
    rows = random_rows([1024] * 16)
    little_memory._budget.tokens = 16 * 1024

    logits = little_memory.score(rows)

    assert np.abs(logits - np.concatenate([exact.score([row]) for row in rows])).max() <= 0.02
    assert little_memory.info.max_batch_tokens < 16 * 1024


def test_the_true_shape_scores_32_pairs_of_512_tokens_in_2_gb() -> None:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    source = transformers.XLMRobertaForSequenceClassification(
        xlmr_config(SHAPES["true-shape"], XLMR_VOCABULARY)
    ).eval()
    precision = choose_precision("fp16", CUDA)
    model = UnpaddedModel(
        source,
        XLM_ROBERTA,
        CUDA,
        precision,
        choose_linear(CUDA, precision.weights, precision.body),
        attention.choose_attention(CUDA, precision.body, 64),
    )

    logits = model(random_rows([512] * 32)).cpu()

    assert torch.isfinite(logits).all()
    assert torch.cuda.max_memory_allocated() - held < TWO_GB
