"""Make the small model's two data files: its tokenizer and its table of piece weights.

Reads the passages of a data folder (never a question, never a paragraph that is gold in a job file) and
writes `tokenizer.json`, and `piece_idf.bin` beside itself. Run once by a person; what it wrote is committed. Needs
`sentencepiece` and `opencc-python-reimplemented` beside the worker's own dependencies.

    python training/make_tokenizer.py ../shared/data worker/rerankq_worker/model/small
"""

import argparse
import importlib.resources
import io
import math
import os
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one thread: the same pieces on every run

import numpy as np
from questions import gold_paragraphs, read_lines
from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import Unigram

try:
    import opencc  # noqa: F401 - its tables are read
    import sentencepiece  # pyright: ignore[reportMissingTypeStubs]
    from sentencepiece import sentencepiece_model_pb2 as proto  # pyright: ignore[reportMissingTypeStubs]
except ImportError as error:
    raise SystemExit(
        f"{error.name} is missing: pip install sentencepiece protobuf opencc-python-reimplemented"
    ) from None

SPECIALS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
HAN = r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]"
LETTER_PIECES = 10_000  # pieces for everything that is not a Han character
# Words that say "this is a question" or hold a sentence together: sharing them tells nothing, and questions
# hold more of them than the passages that the weights are counted in.
QUESTION_WORDS = [
    "what",
    "which",
    "who",
    "whom",
    "whose",
    "when",
    "where",
    "why",
    "how",
    "did",
    "does",
    "do",
    "is",
    "are",
    "was",
    "were",
    "the",
    "a",
    "an",
    "of",
    "in",
    "to",
    "?",
    ".",
    ",",
    "'",
    "s",
    "什",
    "么",
    "哪",
    "谁",
    "吗",
    "呢",
    "何",
    "几",
    "。",
    "、",
    "的",
    "是",
    "了",
]
# English endings become words of their own, so that "engine", "engines" and "engined" share a piece.
ENDINGS = ("ing", "ied", "ies", "ed", "es", "e", "ly", "y", "s")
AN_ENDING = rf"(?<=[a-z][a-z][a-z])(?:{'|'.join(ENDINGS[:-1])}|(?<!s)s)(?![a-z])"
RARE_ENDING_SCORE = -9.0  # as log probability, for an ending that was not learned as a piece
IDF_STEPS = 255  # a weight is one byte: 255 is the rarest


def main() -> None:
    """Write the tokenizer into the folder named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("target", type=Path)
    arguments = parser.parse_args()

    passages = list(read_passages(arguments.data))
    tokenizer = build_tokenizer(passages)
    tokenizer.save(str(arguments.target / "tokenizer.json"), pretty=False)
    idf = piece_idf(tokenizer, passages)
    Path(__file__).with_name("piece_idf.bin").write_bytes(idf.tobytes())
    sys.stdout.write(f"{len(passages)} passages, {tokenizer.get_vocab_size()} pieces\n")


def read_passages(data: Path) -> Iterator[str]:
    """Every training passage that is not gold in a job file, in file order."""
    gold_texts = set(gold_paragraphs(data))
    for path in sorted((data / "train").glob("*.passages.jsonl.gz")):
        for passage in read_lines(path):
            if passage["text"] not in gold_texts:
                yield passage["text"]


def build_tokenizer(passages: list[str]) -> Tokenizer:
    """A Unigram tokenizer: one piece per Han character, learned pieces for every other script."""
    fold = normalizers.Sequence(
        [
            normalizers.NFKD(),
            normalizers.StripAccents(),
            normalizers.NFC(),
            normalizers.Lowercase(),
            normalizers.Precompiled(simplified_charsmap()),
        ]
    )
    han = han_pieces(fold, passages)
    letters = letter_pieces(fold, passages)
    vocabulary = [(piece, 0.0) for piece in SPECIALS] + letters + han
    tokenizer = Tokenizer(Unigram(vocabulary, unk_id=3, byte_fallback=False))
    tokenizer.normalizer = fold  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.pre_tokenizer = words()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.Metaspace()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    tokenizer.add_special_tokens(SPECIALS)
    return tokenizer


def words() -> pre_tokenizers.Sequence:
    """Word stems, endings, punctuation marks and Han characters, each opened by the word mark."""
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Punctuation("isolated"),
            pre_tokenizers.Split(Regex(HAN), "isolated"),
            pre_tokenizers.Split(Regex(AN_ENDING), "isolated"),
            pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always", split=False),
        ]
    )


def simplified_charsmap() -> bytes:
    """OpenCC's traditional-to-simplified characters as the compiled map that `Precompiled` reads."""
    table = importlib.resources.files("opencc").joinpath("dictionary/TSCharacters.txt").read_text("utf-8")
    rules = io.StringIO()
    for line in table.splitlines():
        traditional, simplified = line.split("\t")
        first = simplified.split(" ")[0]
        if len(traditional) == len(first) == 1 and traditional != first:
            rules.write(f"{ord(traditional):X}\t{ord(first):X}\n")
    return compile_charsmap(rules.getvalue())


def compile_charsmap(rules_tsv: str) -> bytes:
    """The charsmap that sentencepiece compiles from replacement rules, taken out of a throw-away model."""
    model = io.BytesIO()
    with tempfile.NamedTemporaryFile("w", suffix=".tsv", encoding="utf-8") as rules:
        rules.write(rules_tsv)
        rules.flush()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(["a b c d e"]),
            model_writer=model,
            vocab_size=16,
            hard_vocab_limit=False,
            normalization_rule_tsv=rules.name,
            minloglevel=2,
        )
    return proto.ModelProto.FromString(model.getvalue()).normalizer_spec.precompiled_charsmap


def han_pieces(fold: normalizers.Normalizer, passages: Iterable[str]) -> list[tuple[str, float]]:
    """A piece for each hanzi of GB 2312 and each other one in the passages, scored by its frequency."""
    standard = bytes_of_gb2312().decode("gb2312", errors="ignore")
    counts = Counter(re.findall(HAN, fold.normalize_str(standard)))
    for passage in passages:
        counts.update(re.findall(HAN, fold.normalize_str(passage)))
    total = sum(counts.values())
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [("▁" + character, math.log(count / total)) for character, count in ordered]


def bytes_of_gb2312() -> bytes:
    """The code points of GB 2312's hanzi, rows 16 to 87 (levels 1 and 2)."""
    return bytes(byte for row in range(0xB0, 0xF8) for cell in range(0xA1, 0xFF) for byte in (row, cell))


def letter_pieces(fold: normalizers.Normalizer, passages: Iterable[str]) -> list[tuple[str, float]]:
    """The Unigram pieces of everything in the passages that is not Han, learned by sentencepiece."""
    word_counts: Counter[str] = Counter()
    pre_tokenizer = words()
    for passage in passages:
        for word, _ in pre_tokenizer.pre_tokenize_str(fold.normalize_str(passage)):
            if not re.search(HAN, word):
                word_counts[word] += 1
    model = io.BytesIO()
    lines = (f"{word[1:]}\t{count}" for word, count in sorted(word_counts.items()) if "\t" not in word)
    with tempfile.NamedTemporaryFile("w", suffix=".tsv", encoding="utf-8") as table:
        table.write("\n".join(lines))
        table.flush()
        sentencepiece.SentencePieceTrainer.train(
            input=table.name,
            input_format="tsv",
            model_writer=model,
            model_type="unigram",
            vocab_size=LETTER_PIECES,
            character_coverage=1.0,
            normalization_rule_name="identity",
            num_threads=1,
            required_chars="abcdefghijklmnopqrstuvwxyz0123456789",
            minloglevel=2,
        )
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    pieces = [
        (processor.id_to_piece(i), processor.get_score(i)) for i in range(3, processor.get_piece_size())
    ]
    marks = [("▁" + piece, score) for piece, score in pieces if len(piece) == 1 and not piece.isalnum()]
    learned = {piece for piece, _ in pieces}
    rest = [("▁" + ending, RARE_ENDING_SCORE) for ending in ENDINGS if "▁" + ending not in learned]
    return [(piece, round(score, 4)) for piece, score in pieces + marks + rest if piece != "▁▁"]


def piece_idf(tokenizer: Tokenizer, passages: list[str]) -> np.ndarray:
    """One byte per piece: ln((N + 1) / (df + 1)) over the passages, scaled to 0..255; specials are 0."""
    frequency = np.zeros(tokenizer.get_vocab_size(), dtype=np.int64)
    for encoding in tokenizer.encode_batch(passages, add_special_tokens=False):
        frequency[np.unique(encoding.ids)] += 1
    rarity = np.log((len(passages) + 1) / (frequency + 1))
    steps = np.rint(rarity / math.log(len(passages) + 1) * IDF_STEPS).astype(np.uint8)
    steps[: len(SPECIALS)] = 0
    weightless = ["▁" + word for word in (*QUESTION_WORDS, *ENDINGS)]
    known = (tokenizer.token_to_id(piece) for piece in weightless)
    steps[[piece for piece in known if piece is not None]] = 0
    return steps


if __name__ == "__main__":
    main()
