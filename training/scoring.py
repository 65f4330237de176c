"""The small model to be trained, in plain transformers, and how well it ranks. Knows no optimizer."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import circuit
import torch
from pack import written_weights
from questions import Question, Questions
from tokenizers import Tokenizer
from transformers import XLMRobertaForSequenceClassification

from rerankq_worker.model.small import materialise

MAX_TOKENS = 1024
BATCH_TOKENS = 4096
CHOOSING_CANDIDATES = 15
NOISE = 0.02  # of the feed-forward blocks' inner side; the outer starts at zero, so step 0 is the circuit


@dataclass(frozen=True, slots=True)
class Model:
    """The network and its tokenizer."""

    network: XLMRobertaForSequenceClassification
    tokenizer: Tokenizer

    @classmethod
    def load(cls) -> "Model":
        """The written model in fp32; the inner side of its empty blocks gets noise, so that they can learn."""
        directory = materialise()
        tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        tokenizer.enable_truncation(MAX_TOKENS, strategy="only_second")
        network = XLMRobertaForSequenceClassification.from_pretrained(directory, dtype=torch.float32).eval()
        written = {name: torch.from_numpy(tensor) for name, tensor in written_weights().items()}
        network.load_state_dict(written)
        network.requires_grad_(False)
        for layer in network.roberta.encoder.layer:
            torch.nn.init.normal_(layer.intermediate.dense.weight, std=NOISE)
        torch.nn.init.normal_(network.classifier.dense.weight[1:], std=NOISE)
        return cls(network, tokenizer)

    def rows(self, query: str, texts: Sequence[str]) -> list[list[int]]:
        """The token ids of each pair."""
        return [encoding.ids for encoding in self.tokenizer.encode_batch([(query, text) for text in texts])]

    def score(self, rows: Sequence[list[int]]) -> torch.Tensor:
        """One logit per row."""
        return by_length(rows, lambda ids: self.network(ids, (ids != circuit.PAD).long()).logits[:, 0])


def by_length(rows: Sequence[list[int]], run: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """What `run` says of each row, in the order given; it sees batches of rows of like length."""
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    said: list[torch.Tensor] = []
    start = 0
    while start < len(order):
        end = start + 1
        while end < len(order) and (end + 1 - start) * len(rows[order[end]]) <= BATCH_TOKENS:
            end += 1
        batch = [rows[index] for index in order[start:end]]
        longest = max(map(len, batch))
        said.append(run(torch.tensor([row + [circuit.PAD] * (longest - len(row)) for row in batch])))
        start = end
    places = torch.empty(len(order), dtype=torch.long)
    places[torch.tensor(order)] = torch.arange(len(order))
    return torch.cat(said)[places]


def report(model: Model, questions: Questions) -> dict[str, list[float]]:
    """The reciprocal rank of each reported question, ordinary and hard."""
    return {
        "ordinary": reciprocal_ranks(model, questions.ordinary),
        "hard": reciprocal_ranks(model, questions.hard),
    }


@torch.no_grad()
def reciprocal_ranks(model: Model, questions: Sequence[Question]) -> list[float]:
    """Of the right paragraph among all that were found, per question."""
    ranks: list[float] = []
    for question in questions:
        logits = model.score(model.rows(question.query, question.found))
        ranks.append(1 / int((logits >= logits[question.found.index(question.right)]).sum()))
    return ranks


def to_choose_by(questions: Questions) -> list[tuple[str, list[str]]]:
    """Queries with their candidates, the right one first."""
    return [
        (q.query, [q.right, *(text for text in q.found if text != q.right)][:CHOOSING_CANDIDATES])
        for q in questions.choosing
    ]


def mean_rank_of_first(rows: Iterable[torch.Tensor]) -> float:
    """MRR where the right candidate is the first."""
    return statistics.fmean(1 / int((row >= row[0]).sum()) for row in rows)


def mean_and_error(values: Sequence[float]) -> str:
    """Mean and its standard error, for people."""
    return f"{statistics.fmean(values):.4f} ± {statistics.stdev(values) / len(values) ** 0.5:.4f}"
