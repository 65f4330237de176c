"""Write the small model's golden scores.

    python training/make_golden.py worker/rerankq_worker/model/small/golden.json

Logits of a handful of pairs by plain transformers, fp32, eager attention, one pair at a time: the reference
that every faster way must meet. Run by a person when the weights change on purpose, and reviewed.
"""

import json
import sys
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from rerankq_worker.model.small import WEIGHTS_SHA256, materialise

PAIRS = [
    ("中国的首都是哪里？", "北京是中国的政治中心和首都。"),
    ("中国的首都是哪里？", "上海是中国最大的城市和经济中心。"),
    ("人工智能的发展趋势", "机器学习是人工智能的一个分支。"),
    ("人工智能的发展趋势", "西红柿炒蛋是一道家常菜。"),
    ("什麼是軟體工程", "软件工程是一门研究软件开发方法的学科。"),
    (
        "How do giant pandas digest bamboo?",
        "Strong jaws let the giant panda crush bamboo before digesting it.",
    ),
    ("How do giant pandas digest bamboo?", "The Python library pandas offers data frames."),
    (
        "When did the oil embargo begin?",
        "Snow fell on the town. " * 40 + "The oil embargo began in October 1973.",
    ),
    ("What is the capital of France?", ""),
]
TOLERANCE = {"fp32": 0.002, "fp16": 0.1, "bf16": 0.5, "int8": 0.8}  # logits; see docs/small-model.md
HOW = "transformers {transformers}, torch {torch}, CPU, fp32 compute, fp16 weights, eager, one pair at a time"


def main() -> None:
    """Score the pairs and write the file named on the command line."""
    directory = materialise()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForSequenceClassification.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    golden = {
        "model": "rerankq-small",
        "weights_sha256": WEIGHTS_SHA256,
        "how": HOW.format(transformers=transformers.__version__, torch=torch.__version__),
        "source": "training/make_golden.py",
        "tolerance": TOLERANCE,
        "pairs": [
            {
                "query": query,
                "document": document,
                "logit": round(logit(model, tokenizer, query, document), 4),
            }
            for query, document in PAIRS
        ],
    }
    Path(sys.argv[1]).write_text(json.dumps(golden, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


@torch.inference_mode()
def logit(
    model: torch.nn.Module, tokenizer: transformers.PreTrainedTokenizerFast, query: str, document: str
) -> float:
    """The logit of one pair."""
    pair = tokenizer(query, document, truncation="only_second", return_tensors="pt")
    return float(model(pair["input_ids"], pair["attention_mask"]).logits[0, 0])


if __name__ == "__main__":
    main()
