"""Where the small model comes from: `training/` writes, to the bit, what is shipped."""

import hashlib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rerankq_worker.model.small import WEIGHTS_SHA256
from tests.conftest import REPOSITORY


@pytest.fixture(scope="module")
def pack() -> Iterator[Any]:
    """The module of training/, which are programs: no package."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(REPOSITORY / "training")
        yield import_module("pack")


def test_what_training_packs_is_what_is_shipped(pack: Any):
    assert hashlib.sha256(pack.as_safetensors(pack.trained_weights())).hexdigest() == WEIGHTS_SHA256


def test_training_without_its_data_says_in_one_line_what_it_needs(pack: Any, tmp_path: Path):
    questions = import_module("questions")

    with pytest.raises(SystemExit, match=r"^/.* has no folders train and jobs; --data names the data .*$"):
        questions.split_by_paragraph(tmp_path)


def test_only_the_last_layer_the_classifier_and_the_weights_of_pieces_were_trained(pack: Any):
    written, trained = pack.written_weights(), pack.trained_weights()

    changed = {name for name, tensor in written.items() if (tensor != trained[name]).any()}
    columns = np.flatnonzero((written[pack.WORDS] != trained[pack.WORDS]).any(axis=0))

    assert trained.keys() == written.keys()
    assert {name.removeprefix("roberta.encoder.").split(".")[0] for name in changed - {pack.WORDS}} == {
        "layer",
        "classifier",
    }
    assert {name.split(".")[3] for name in changed if ".layer." in name} == {str(pack.circuit.LAYERS - 1)}
    assert columns.tolist() == [pack.circuit.feature("log_idf"), pack.circuit.feature("log_idf") + 1]
