"""Train the small model from its written weights, and say whether it got better.

    python training/train.py [--data ../shared/data] [--minutes 12] [--threads 1] [--out trained.pt]

The heads stay as written. Free are the weight of each piece, the feed-forward blocks (empty in the written
model) and the classifier. Listwise cross-entropy: the right paragraph among others that BM25 found for the
question. Questions whose paragraph is gold in a job file are left out; the rest is split by paragraph, one in
ten held out. Seeds are fixed, and one thread makes each step the same; the clock decides how many there are.
"""

import argparse
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from make_tokenizer import gold_paragraphs, read_lines
from tokenizers import Tokenizer
from transformers import XLMRobertaForSequenceClassification

from rerankq_worker.small_model import circuit, materialise

SEED = 20261122
CANDIDATES = 8  # the right paragraph and seven others
MAX_TOKENS = 256
QUESTIONS_PER_STEP = 4
HELD_OUT_PER_CORPUS = 15
LEARNING_RATE = 1e-3
NOISE = (
    0.02  # of the feed-forward blocks' inner side; their outer side starts at zero, so step 0 is the circuit
)


@dataclass(frozen=True, slots=True)
class Question:
    """A question, its paragraph, and the others that BM25 found, best first."""

    query: str
    right: str
    found: list[str]


def main() -> None:
    """Train for the given minutes; print the held-out MRR before and after."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--minutes", type=float, default=12.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("trained.pt"))
    arguments = parser.parse_args()
    torch.manual_seed(SEED)
    torch.set_num_threads(arguments.threads)

    directory = materialise()
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.enable_truncation(MAX_TOKENS, strategy="only_second")
    model = XLMRobertaForSequenceClassification.from_pretrained(directory, dtype=torch.float32).eval()
    free = set_free(model)
    train, held_out = split_by_paragraph(arguments.data)

    sys.stdout.write(f"{len(train)} questions to train on, {len(held_out)} held out\n")
    sys.stdout.write(f"held-out MRR before: {mrr(model, tokenizer, held_out):.3f}\n")
    steps = fit(model, tokenizer, free, train, arguments.minutes * 60)
    sys.stdout.write(f"held-out MRR after {steps} steps: {mrr(model, tokenizer, held_out):.3f}\n")
    torch.save(model.state_dict(), arguments.out)


def split_by_paragraph(data: Path) -> tuple[list[Question], list[Question]]:
    """Questions to train on, and held-out ones of other paragraphs: every tenth paragraph is held out."""
    gold = set(gold_paragraphs(data))
    train: list[Question] = []
    held_out: list[Question] = []
    for path in sorted((data / "train").glob("*.questions.jsonl.gz")):
        passages = {
            p["id"]: p["text"] for p in read_lines(path.with_name(path.name.replace("questions", "passages")))
        }
        held_out_ids = {name for index, name in enumerate(passages) if index % 10 == 0}
        corpus: list[Question] = []
        for line in read_lines(path):
            if passages[line["gold"]] in gold or line["gold"] not in line["bm25"]:
                continue
            others = [
                passages[name] for name in line["bm25"] if name not in held_out_ids or name == line["gold"]
            ]
            others = [text for text in others if text not in gold]
            question = Question(line["query"], passages[line["gold"]], others)
            if line["gold"] in held_out_ids:
                corpus.append(
                    Question(line["query"], passages[line["gold"]], [passages[n] for n in line["bm25"]])
                )
            else:
                train.append(question)
        random.Random(SEED).shuffle(corpus)  # noqa: S311 - a fixed draw, no secret
        held_out += corpus[:HELD_OUT_PER_CORPUS]
    return train, held_out


def set_free(model: XLMRobertaForSequenceClassification) -> list[torch.nn.Parameter]:
    """Freeze the circuit; free the piece weights, the feed-forward blocks and the classifier."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    free: list[torch.nn.Parameter] = []
    for layer in model.roberta.encoder.layer:
        torch.nn.init.normal_(layer.intermediate.dense.weight, std=NOISE)
        free += [*layer.intermediate.parameters(), layer.output.dense.weight, layer.output.dense.bias]
    torch.nn.init.normal_(model.classifier.dense.weight[1:], std=NOISE)
    free += list(model.classifier.parameters())
    words = model.roberta.embeddings.word_embeddings.weight.requires_grad_(True)
    only_idf = torch.zeros(circuit.HIDDEN)
    only_idf[circuit.feature("log_idf")], only_idf[circuit.feature("log_idf") + 1] = 1.0, -1.0
    # The pair must stay a pair: both columns take the difference of their gradients.
    words.register_hook(lambda gradient: (gradient @ only_idf)[:, None] * only_idf / 2)
    free.append(words)
    for parameter in free:
        parameter.requires_grad_(True)
    return free


def fit(
    model: XLMRobertaForSequenceClassification,
    tokenizer: Tokenizer,
    free: list[torch.nn.Parameter],
    train: list[Question],
    seconds: float,
) -> int:
    """Adam until the time is up; the number of steps taken."""
    optimizer = torch.optim.Adam(free, lr=LEARNING_RATE)
    started, steps, losses = time.monotonic(), 0, 0.0
    for questions in batches(train):
        passed = time.monotonic() - started
        if passed > seconds:
            break
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, (steps + 1) / 50) * max(0.0, 1 - passed / seconds)
        rows = [(question.query, text) for question, texts in questions for text in texts]
        logits = score(model, tokenizer, rows).view(len(questions), CANDIDATES)
        loss = torch.nn.functional.cross_entropy(logits, torch.zeros(len(questions), dtype=torch.long))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(free, 1.0)
        optimizer.step()
        steps, losses = steps + 1, losses + loss.item()
        if steps % 50 == 0:
            sys.stdout.write(f"{passed:.0f} s, step {steps}: loss {losses / 50:.3f}\n")
            sys.stdout.flush()
            losses = 0.0
    return steps


def batches(train: list[Question]) -> Iterator[list[tuple[Question, list[str]]]]:
    """Questions with their candidates, the right one first, for ever."""
    draw = random.Random(SEED)  # noqa: S311 - a fixed draw, no secret
    while True:
        chosen = draw.sample(train, QUESTIONS_PER_STEP)
        wrong = [[text for text in question.found if text != question.right] for question in chosen]
        if min(map(len, wrong)) >= CANDIDATES - 1:
            yield [
                (question, [question.right, *draw.sample(others, CANDIDATES - 1)])
                for question, others in zip(chosen, wrong, strict=True)
            ]


def score(
    model: XLMRobertaForSequenceClassification, tokenizer: Tokenizer, rows: list[tuple[str, str]]
) -> torch.Tensor:
    """One logit per row."""
    encoded = [encoding.ids for encoding in tokenizer.encode_batch(rows)]
    longest = max(map(len, encoded))
    ids = torch.tensor([row + [circuit.PAD] * (longest - len(row)) for row in encoded])
    return model(ids, (ids != circuit.PAD).long()).logits[:, 0]


@torch.no_grad()
def mrr(model: XLMRobertaForSequenceClassification, tokenizer: Tokenizer, questions: list[Question]) -> float:
    """Mean reciprocal rank of the right paragraph among all that were found."""
    total = 0.0
    for question in questions:
        logits = score(model, tokenizer, [(question.query, text) for text in question.found])
        right = logits[question.found.index(question.right)]
        total += 1 / int((logits >= right).sum())
    return total / len(questions)


if __name__ == "__main__":
    main()
