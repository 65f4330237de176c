"""Calibrate a trained last layer, and write the file that is shipped.

    python training/last_layer.py trained/last-layer.pt training/last_layer.safetensors

A listwise loss ranks and does not see a constant: trained logits have no zero. A logistic fit of right against wrong
on the questions to choose by, right and wrong ones weighing the same in all, gives them one: a logit of 0 is
where a candidate is as likely the right one as one of the wrong ones that BM25 found. No ranking changes by it.
"""

import argparse
import sys
from pathlib import Path

import circuit
import torch
from pack import PIECE_LOG_WEIGHTS, WORDS
from questions import Questions, split_by_paragraph
from safetensors.torch import save
from scoring import Model, to_choose_by

NEWTON_STEPS = 50


def main() -> None:
    """Write the file of the checkpoint named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("file", type=Path)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    if not arguments.checkpoint.is_file():
        sys.exit(f"{arguments.checkpoint} is not there; training/train.py --free last-layer writes one")
    torch.set_num_threads(arguments.threads)
    model = Model.load()
    model.network.load_state_dict(torch.load(arguments.checkpoint))
    sys.stdout.write(calibrate_and_write(model, split_by_paragraph(arguments.data), arguments.file) + "\n")


def calibrate_and_write(model: Model, questions: Questions, file: Path) -> str:
    """Do both, and say in one line what the calibration was."""
    scale, shift = calibrate(model, questions)
    write(model, file)
    return f"{file}: logit = {scale:.4f} * trained + {shift:.4f}"


@torch.no_grad()
def calibrate(model: Model, questions: Questions) -> tuple[float, float]:
    """Give the logits a zero and a unit, in the classifier's last weights; say by which scale and shift."""
    logits = [model.score(model.rows(*question)) for question in to_choose_by(questions)]
    right = torch.cat([of_one[:1] for of_one in logits])
    wrong = torch.cat([of_one[1:] for of_one in logits])
    scale, shift = logistic_fit(right, wrong)
    out = model.network.classifier.out_proj
    out.weight.mul_(scale)
    out.bias.mul_(scale).add_(shift)
    return scale, shift


def logistic_fit(right: torch.Tensor, wrong: torch.Tensor) -> tuple[float, float]:
    """Scale and shift of the balanced logistic regression, by Newton's method."""
    x = torch.cat([right, wrong]).double()
    x = torch.stack([x, torch.ones_like(x)], dim=1)
    labels = torch.cat([torch.ones_like(right), torch.zeros_like(wrong)]).double()
    weights = torch.where(labels > 0, 1 / len(right), 1 / len(wrong))
    found = torch.zeros(2, dtype=torch.double)
    for _ in range(NEWTON_STEPS):
        p = torch.sigmoid(x @ found)
        curvature = (x * (weights * p * (1 - p))[:, None]).T @ x
        found += torch.linalg.solve(curvature, x.T @ (weights * (labels - p)))
    return float(found[0]), float(found[1])


def write(model: Model, file: Path) -> None:
    """What `pack.py` lays over the written weights: the last layer, the classifier and the pieces, in fp16."""
    last = f"roberta.encoder.layer.{circuit.LAYERS - 1}."
    weights = model.network.state_dict()
    trained = {name: tensor for name, tensor in weights.items() if name.startswith((last, "classifier."))}
    trained[PIECE_LOG_WEIGHTS] = weights[WORDS][:, circuit.feature("log_idf")]
    file.write_bytes(save({name: tensor.half().contiguous() for name, tensor in trained.items()}))


if __name__ == "__main__":
    main()
