"""The questions to train on, to choose by and to report, split by paragraph.

Every tenth paragraph of a corpus is held out for the report, the one after it is for choosing among
checkpoints, the others are trained on. Questions whose paragraph is gold in a job file are left out whole, and
such a paragraph is no negative either. Knows no model.
"""

import gzip
import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path

SEED = 20261122
REPORTED_PER_CORPUS = 50  # ordinary ones, and as many at most of the hard ones
CHOOSING_PER_CORPUS = 40
FOUND_AT = 12  # wrong candidates come from the first so many that BM25 found
SPAN_CHARACTERS = (15, 120)  # a sentence of this length may become a query
SPAN_EVERY = 5  # one in so many is a sentence cut out of its paragraph


@dataclass(frozen=True, slots=True)
class Question:
    """A question, its paragraph, and the paragraphs that BM25 found for it, best first."""

    query: str
    right: str
    found: list[str]

    @property
    def hard(self) -> bool:
        """BM25 did not put the right one first."""
        return self.found[0] != self.right


@dataclass(frozen=True, slots=True)
class Questions:
    """The three parts, and of the reported one the hard questions apart."""

    train: list[Question]
    choosing: list[Question]
    ordinary: list[Question]
    hard: list[Question]


def split_by_paragraph(data: Path) -> Questions:
    """Read the training folder; the training part takes turns among the corpora, hard ones and others."""
    gold = set(gold_paragraphs(data))
    parts = Questions([], [], [], [])
    train: list[list[Question]] = []
    for path in sorted((data / "train").glob("*.questions.jsonl.gz")):
        passages = {
            p["id"]: p["text"] for p in read_lines(path.with_name(path.name.replace("questions", "passages")))
        }
        part_of = {name: min(index % 10, 2) for index, name in enumerate(passages)}
        drawn: list[list[Question]] = [[], [], []]
        for line in read_lines(path):
            right = passages[line["gold"]]
            if right in gold or line["gold"] not in line["bm25"]:
                continue
            part = part_of[line["gold"]]
            found = [
                passages[name]
                for name in line["bm25"]
                if part < 2 or (part_of[name] == 2 and passages[name] not in gold)
            ]
            drawn[part].append(Question(line["query"], right, found))
        for questions in drawn:
            random.Random(SEED).shuffle(questions)
        reported, choosing, rest = drawn
        parts.ordinary.extend(reported[:REPORTED_PER_CORPUS])
        parts.hard.extend([q for q in reported[REPORTED_PER_CORPUS:] if q.hard][:REPORTED_PER_CORPUS])
        parts.choosing.extend(choosing[:CHOOSING_PER_CORPUS])
        train += [[q for q in rest if q.hard], [q for q in rest if not q.hard]]
    parts.train.extend(q for q in chain(*zip_longest(*train)) if q is not None)
    return parts


def gold_paragraphs(data: Path) -> Iterator[str]:
    """The text of every paragraph that a job file marks as relevant."""
    if not all((data / folder).is_dir() for folder in ("train", "jobs")):
        raise SystemExit(f"{data} has no folders train and jobs; --data names the data (training/README.md)")
    for path in sorted((data / "jobs").glob("*.jsonl.gz")):
        for job in read_lines(path):
            yield from (d["text"] for d in job["documents"] if job["relevant"].get(d["id"], 0) > 0)


def read_lines(path: Path) -> Iterator[dict]:
    """The JSON objects of a gzipped JSON-lines file."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def draws(train: Sequence[Question], candidates: int) -> Iterator[tuple[str, list[str]]]:
    """Queries with their candidates, the right one first, once through; some are sentences, not questions."""
    draw = random.Random(SEED)
    for index, question in enumerate(train):
        wrong = [text for text in question.found[:FOUND_AT] if text != question.right]
        if len(wrong) < candidates - 1:
            continue
        query, right = question.query, question.right
        if index % SPAN_EVERY == 0:
            query, right = cut_out_a_sentence(right, draw) or (query, right)
        yield query, [right, *draw.sample(wrong, candidates - 1)]


def cut_out_a_sentence(paragraph: str, draw: random.Random) -> tuple[str, str] | None:
    """A sentence of the paragraph, and the paragraph without it."""
    shortest, longest = SPAN_CHARACTERS
    sentences = re.findall(r"[^.!?。！？]+[.!?。！？]", paragraph)
    chosen = [sentence for sentence in sentences if shortest <= len(sentence) <= longest]
    if len(sentences) < 3 or not chosen:
        return None
    sentence = draw.choice(chosen)
    return sentence.strip(), paragraph.replace(sentence, " ")
