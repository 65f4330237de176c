"""Train the small model from its written weights, and say whether it got better.

    python training/train.py [--free last-layer feed-forward] [--data ../shared/data] [--minutes 21]

Listwise cross-entropy: the right paragraph among others that BM25 found for the question. The heads before the
last layer stay as written; two sets of weights can be free:

- last-layer: the weight of each piece, the last layer and the classifier. The layers before it run once per
  pair, what they say about the query is kept, and many epochs over that cost next to nothing.
- feed-forward: the weight of each piece, all feed-forward blocks (empty in the written model) and the
  classifier, through the whole model, one pass over as many questions as there is time for.

Seeds are fixed, and one thread makes each step the same; the clock decides how many there are. The best
checkpoint is chosen on questions that are neither trained on nor reported.
"""

import argparse
import copy
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Generic, TypeVar

import circuit
import torch
from last_layer import calibrate_and_write
from questions import SEED, Questions, draws, split_by_paragraph
from scoring import Model, by_length, mean_and_error, mean_rank_of_first, report, to_choose_by
from transformers import XLMRobertaForSequenceClassification

CANDIDATES = 5  # the right paragraph and four others
LEARNING_RATE = 3e-4
PIECE_LEARNING_RATE = 5e-3  # of a piece's log weight
PIECE_DECAY = 6e-5  # pulls a piece's log weight back to where idf put it
WARM_UP_STEPS = 100
CHOOSE_EVERY = 100  # steps
# Through the whole model:
QUESTIONS_PER_STEP = 8
SHORT_TOKENS = 320  # of a pair; longer ones are left out, none is cut
CHOOSE_BY_EACH = 3  # of the questions to choose by, for here they take time
# The last layer alone:
READS_PER_STEP = 32
EPOCHS = 6
READING_SHARE = 0.6  # of the time, for running the layers before the last
READ_AT_ONCE = 32  # questions, so that rows of like length come together
STATE_TOKENS = 64  # of a query, as far as the last layer is shown it

Batch = TypeVar("Batch")


def main() -> None:
    """Train for the given minutes; print reciprocal ranks before and after."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--free", nargs="+", choices=list(FITS), default=list(FITS))
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--minutes", type=float, default=21.0, help="for each set of free weights")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("trained"), help="a folder")
    arguments = parser.parse_args()
    torch.manual_seed(SEED)
    torch.set_num_threads(arguments.threads)

    questions = split_by_paragraph(arguments.data)
    say(
        f"{len(questions.train)} questions to train on, {len(questions.choosing)} to choose by; reported: "
        f"{len(questions.ordinary)} and {len(questions.hard)} that BM25 gets wrong"
    )
    before = report(Model.load(), questions)
    arguments.out.mkdir(exist_ok=True)
    for free in arguments.free:
        say(f"training {free}")
        model = Model.load()
        FITS[free](model, questions, arguments.minutes * 60)
        torch.save(model.network.state_dict(), arguments.out / f"{free}.pt")
        for name, ranks in report(model, questions).items():
            gains = [new - old for new, old in zip(ranks, before[name], strict=True)]
            say(
                f"{free}, {name}: MRR {mean_and_error(before[name])} -> {mean_and_error(ranks)}, "
                f"difference {mean_and_error(gains)}"
            )
        if free == "last-layer":
            say(calibrate_and_write(model, questions, arguments.out / "last_layer.safetensors"))


def say(line: str) -> None:
    """One line, at once."""
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {line}\n")
    sys.stdout.flush()


# --- what both ways share -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fit(Generic[Batch]):
    """What is free, what it says of a batch (right candidates first), and how good it is."""

    module: torch.nn.Module
    pieces: torch.nn.Parameter
    piece_rate: float
    piece_decay: float
    others: list[torch.nn.Parameter]
    logits: Callable[[Batch], torch.Tensor]
    mrr: Callable[[], float]

    def run(self, batches: Iterator[tuple[float, Batch]]) -> None:
        """Adam over batches that know how much of the run is done; leave the best checkpoint in the module."""
        optimizer = torch.optim.Adam(
            [{"params": [self.pieces], "weight_decay": self.piece_decay}, {"params": self.others}]
        )
        best = Best(self.module, self.mrr())
        step, losses = 0, 0.0
        for step, (done, batch) in enumerate(batches, 1):
            factor = min(1.0, step / WARM_UP_STEPS) * (1 - done)
            for group, rate in zip(optimizer.param_groups, (self.piece_rate, LEARNING_RATE), strict=True):
                group["lr"] = rate * factor
            logits = self.logits(batch)
            loss = torch.nn.functional.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.others, 1.0)
            optimizer.step()
            losses += loss.item()
            if step % CHOOSE_EVERY == 0:
                best.choose(step, self.mrr(), losses / CHOOSE_EVERY)
                losses = 0.0
        best.choose(step, self.mrr(), losses / max(1, step % CHOOSE_EVERY))
        best.restore()


class Best:
    """The best checkpoint so far."""

    def __init__(self, module: torch.nn.Module, mrr: float) -> None:
        """Watch a module."""
        self.module, self.step, self.mrr = module, 0, mrr
        self.weights = copy.deepcopy(module.state_dict())
        say(f"to choose by {mrr:.4f}")

    def choose(self, step: int, mrr: float, loss: float) -> None:
        """Keep the module as it is now if it is better."""
        say(f"step {step}: loss {loss:.4f}, to choose by {mrr:.4f}")
        if mrr > self.mrr:
            self.step, self.mrr, self.weights = step, mrr, copy.deepcopy(self.module.state_dict())

    def restore(self) -> None:
        """Make the module what it was at its best."""
        self.module.load_state_dict(self.weights)
        say(f"best after step {self.step}: to choose by {self.mrr:.4f}")


# --- the last layer alone -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Read:
    """What the last layer reads at <s> and at the query's pieces, candidates of a question side by side."""

    states: torch.Tensor  # question, candidate, token, dimension
    pieces: torch.Tensor  # question, token; PAD beyond the query


class LastLayer(torch.nn.Module):
    """The last layer and the classifier over states that were read before, with piece weights of its own."""

    def __init__(self, network: XLMRobertaForSequenceClassification) -> None:
        """Free the layer and the classifier; every piece's log weight starts where the circuit put it."""
        super().__init__()
        self.layer = network.roberta.encoder.layer[-1].requires_grad_(True)
        self.classifier = network.classifier.requires_grad_(True)
        self.log_weights = torch.nn.Embedding(network.config.vocab_size, 1)
        torch.nn.init.zeros_(self.log_weights.weight)
        own = torch.zeros(2, circuit.HIDDEN)
        for row, name in enumerate(("log_idf", "neighbour_log_idf")):
            dim = circuit.feature(name)
            own[row, dim], own[row, dim + 1] = 1 / circuit.LOG_IDF_UNIT, -1 / circuit.LOG_IDF_UNIT
        self.register_buffer("own", own)

    def forward(self, read: Read) -> torch.Tensor:
        """Logits by question and candidate."""
        questions, candidates, tokens, _ = read.states.shape
        gain = self.log_weights(read.pieces) * (read.pieces >= circuit.SPECIALS)[:, :, None]
        before = torch.nn.functional.pad(gain[:, :-1], (0, 0, 1, 0))
        added = torch.cat([gain, before], dim=2) @ self.own
        hidden = (read.states.float() + added[:, None]).flatten(0, 1)
        mask = torch.zeros(questions, 1, 1, tokens).masked_fill(
            (read.pieces == circuit.PAD)[:, None, None], -1e9
        )
        hidden = self.layer(hidden, mask.repeat_interleave(candidates, 0))
        return self.classifier(hidden).view(questions, candidates)

    @torch.no_grad()
    def write_pieces(self, network: XLMRobertaForSequenceClassification) -> None:
        """Put the piece weights where the whole network holds them."""
        words = network.roberta.embeddings.word_embeddings.weight
        words[circuit.SPECIALS :] += self.log_weights.weight[circuit.SPECIALS :] @ self.own[:1]


def fit_last_layer(model: Model, questions: Questions, seconds: float) -> None:
    """Read what the time allows, train over it, and leave the best checkpoint in the model."""
    trunk = copy.deepcopy(model.network.roberta)
    trunk.encoder.layer = trunk.encoder.layer[:-1]
    kept = read(model, trunk, to_choose_by(questions))
    train = read_for(seconds * READING_SHARE, model, trunk, questions)
    say(f"read {len(train)} questions with {CANDIDATES} candidates, {len(kept)} to choose by")

    @torch.no_grad()
    def mrr() -> float:
        return mean_rank_of_first(last(side_by_side([one]))[0] for one in kept)

    last = LastLayer(model.network)
    pieces = last.log_weights.weight
    others = [*last.layer.parameters(), *last.classifier.parameters()]
    Fit(last, pieces, PIECE_LEARNING_RATE, PIECE_DECAY, others, last, mrr).run(epochs(train))
    last.write_pieces(model.network)


def read_for(seconds: float, model: Model, trunk: torch.nn.Module, questions: Questions) -> list[Read]:
    """As many questions to train on as fit into the time."""
    started, train = time.monotonic(), list[Read]()
    drawn = draws(questions.train, CANDIDATES)
    while time.monotonic() - started < seconds and (some := list(islice(drawn, READ_AT_ONCE))):
        train += read(model, trunk, some)
    return train


@torch.no_grad()
def read(model: Model, trunk: torch.nn.Module, questions: Sequence[tuple[str, Sequence[str]]]) -> list[Read]:
    """Run all layers but the last, and keep <s> and the query."""
    rows = [model.rows(query, texts) for query, texts in questions]
    states = by_length(
        [row for of_one in rows for row in of_one],
        lambda ids: torch.nn.functional.pad(
            trunk(ids, (ids != circuit.PAD).long()).last_hidden_state[:, :STATE_TOKENS].half(),
            (0, 0, 0, max(0, STATE_TOKENS - ids.shape[1])),
        ),
    )
    reads: list[Read] = []
    for of_one, of_its in zip(rows, states.split([len(of_one) for of_one in rows]), strict=True):
        tokens = min(of_one[0].index(circuit.EOS), STATE_TOKENS)
        reads.append(Read(of_its[:, :tokens].clone(), torch.tensor(of_one[0][:tokens])))
    return reads


def epochs(train: Sequence[Read]) -> Iterator[tuple[float, Read]]:
    """Batches for so many epochs, each a fresh draw."""
    draw = random.Random(SEED)
    steps = EPOCHS * len(train) // READS_PER_STEP
    for step in range(steps):
        yield step / steps, side_by_side(draw.sample(train, READS_PER_STEP))


def side_by_side(reads: Sequence[Read]) -> Read:
    """Several questions as one, padded to the longest query."""
    longest = max(len(read.pieces) for read in reads)
    states = torch.zeros(len(reads), reads[0].states.shape[0], longest, circuit.HIDDEN)
    pieces = torch.full((len(reads), longest), circuit.PAD)
    for index, one in enumerate(reads):
        states[index, :, : len(one.pieces)] = one.states
        pieces[index, : len(one.pieces)] = one.pieces
    return Read(states, pieces)


# --- the feed-forward blocks, through the whole model -------------------------------------------------------


def fit_feed_forward(model: Model, questions: Questions, seconds: float) -> None:
    """Train through the whole model until the time is up, and leave the best checkpoint in the model."""
    choosing = [model.rows(*question) for question in to_choose_by(questions)[::CHOOSE_BY_EACH]]

    @torch.no_grad()
    def mrr() -> float:
        return mean_rank_of_first(map(model.score, choosing))

    def logits(batch: list[list[list[int]]]) -> torch.Tensor:
        return model.score([row for rows in batch for row in rows]).view(len(batch), CANDIDATES)

    words, others = set_free(model.network)
    rate = PIECE_LEARNING_RATE / circuit.LOG_IDF_UNIT
    fit = Fit(model.network, words, rate, 0.0, others, logits, mrr)  # a decay would reach the codes as well
    fit.run(short_batches(model, questions, seconds))


def set_free(
    network: XLMRobertaForSequenceClassification,
) -> tuple[torch.nn.Parameter, list[torch.nn.Parameter]]:
    """Free the piece weights; and the feed-forward blocks and the classifier."""
    others: list[torch.nn.Parameter] = [*network.classifier.parameters()]
    for layer in network.roberta.encoder.layer:
        others += [*layer.intermediate.parameters(), layer.output.dense.weight, layer.output.dense.bias]
    words = network.roberta.embeddings.word_embeddings.weight
    only_idf = torch.zeros(circuit.HIDDEN)
    only_idf[circuit.feature("log_idf")], only_idf[circuit.feature("log_idf") + 1] = 1.0, -1.0
    for parameter in (words, *others):
        parameter.requires_grad_(True)
    # The pair must stay a pair: both columns take the difference of their gradients.
    words.register_hook(lambda gradient: (gradient @ only_idf)[:, None] * only_idf / 2)
    return words, others


def short_batches(
    model: Model, questions: Questions, seconds: float
) -> Iterator[tuple[float, list[list[list[int]]]]]:
    """Batches of questions whose candidates are all short, until the time is up."""
    started = time.monotonic()
    batch: list[list[list[int]]] = []
    for query, texts in draws(questions.train, CANDIDATES):
        rows = model.rows(query, texts)
        if max(map(len, rows)) > SHORT_TOKENS:
            continue
        batch.append(rows)
        if len(batch) == QUESTIONS_PER_STEP:
            passed = time.monotonic() - started
            if passed > seconds:
                return
            yield passed / seconds, batch
            batch = []


FITS = {"last-layer": fit_last_layer, "feed-forward": fit_feed_forward}

if __name__ == "__main__":
    main()
