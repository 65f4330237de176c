"""Does the engine do on a card what it does on a CPU, how fast, and what would make it faster?

    python -m benchmarks.gpu_check --seconds 240                # on a host with a GPU: minutes
    python -m benchmarks.gpu_check --device cpu --tiny          # seconds: shows that the checks themselves run

Progress on stderr; the last line is one JSON document: what each check found, and which failed. A check that fails
leaves the others alone. Needs torch, transformers and what these bring, no queue.
"""

import argparse
import json
import os
import signal

import torch

from benchmarks.gpu_check.bench import Bench
from benchmarks.gpu_check.checks import checks
from benchmarks.gpu_check.report import Report


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_check", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a model of three small layers")
    parser.add_argument(
        "--seconds", type=float, default=480, help="a check that would begin later is left out"
    )
    asked = parser.parse_args()
    device = numbered(asked.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)  # kernels in Triton and events go to the current one
    if asked.tiny:
        torch.set_num_threads(1)  # threads that wait for each other take minutes where others compute
    report = Report(asked.seconds)
    for name, check in checks(Bench(device, asked.tiny)).items():
        report.run(name, check)
    print(json.dumps(report.document(), default=str), flush=True)
    os._exit(0)  # the last check loses the device, after which torch would abort where its tensors end


def numbered(name: str) -> torch.device:
    """The device of this name; of a card its number, too, without which torch makes none the current one."""
    device = torch.device(name)
    return torch.device("cuda", device.index or 0) if device.type == "cuda" else device


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # whoever read the output may leave
    main()
