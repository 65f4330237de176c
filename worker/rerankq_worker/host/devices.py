"""Which devices to serve: what the settings ask for against what this host has.

Asks the driver (NVML, else nvidia-smi), never torch: a process that has touched CUDA is no parent for engines.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rerankq.contract.errors import InvalidSettings

GPU_NAME = re.compile(r"\d+|(GPU|MIG)-[\w/-]+")
DRIVER_TIMEOUT_SECONDS = 30.0  # a driver that is just waking up takes its time


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU as the driver counts them, or a slice of one (`MIG-…`) as `CUDA_VISIBLE_DEVICES` does."""

    index: int
    uuid: str


@dataclass(frozen=True, slots=True)
class Device:
    """What one engine gets."""

    name: str
    """`cpu0`, `gpu0`: in process names, sockets and metrics."""
    cuda_visible_devices: str
    """The one GPU that its processes may see; empty for none."""


CPU = Device("cpu0", "")


def chosen_devices(asked: str, find_gpus: Callable[[], Sequence[Gpu]] | None = None) -> list[Device]:
    """The devices that `RERANKQ_DEVICES` asks for: `auto`, `cpu`, or GPUs as `0,1` or `GPU-<uuid>`.

    Raises:
        InvalidSettings: it asks for a GPU that is not there, or for something else.
    """
    if asked == "cpu":
        return [CPU]
    names = [name.strip() for name in asked.split(",")]
    if asked != "auto" and not all(GPU_NAME.fullmatch(name) for name in names):
        raise InvalidSettings(
            f"RERANKQ_DEVICES: expected auto, cpu, or GPUs such as 0,1 or GPU-<uuid>, got {asked!r}"
        )
    gpus = (find_gpus or visible_gpus)()
    if asked == "auto":
        return [_device(gpu) for gpu in gpus] or [CPU]
    if not gpus:
        raise InvalidSettings(
            f"no GPU is visible and RERANKQ_DEVICES={asked} asks for one; install a driver, or set RERANKQ_DEVICES=cpu"
        )
    devices = [_named(name, position, gpus) for position, name in enumerate(names)]
    if len({device.cuda_visible_devices for device in devices}) < len(devices):
        raise InvalidSettings(f"RERANKQ_DEVICES: expected each GPU once, got {asked!r}")
    return devices


def visible_gpus() -> list[Gpu]:
    """The GPUs that this process may use; none when there is no driver."""
    return left_visible(_from_nvml() or _from_nvidia_smi(), os.environ)


def _named(name: str, position: int, gpus: Sequence[Gpu]) -> Device:
    if name.startswith("MIG-"):
        # a slice of a GPU: only CUDA itself can say whether it is there
        return Device(f"gpu{position}", name)
    found = _called(name, gpus)
    if found is None:
        raise InvalidSettings(f"RERANKQ_DEVICES asks for GPU {name}, and only {_listed(gpus)} can be seen")
    return _device(found)


def _called(name: str, gpus: Sequence[Gpu]) -> Gpu | None:
    return next((gpu for gpu in gpus if name == str(gpu.index) or gpu.uuid.startswith(name)), None)


def _listed(gpus: Sequence[Gpu]) -> str:
    return ", ".join(f"{gpu.index} ({gpu.uuid})" for gpu in gpus)


def _device(gpu: Gpu) -> Device:
    return Device(f"gpu{gpu.index}", gpu.uuid)  # by uuid: CUDA may count in another order than the driver


def left_visible(gpus: Sequence[Gpu], environment: Mapping[str, str]) -> list[Gpu]:
    """Those that a `CUDA_VISIBLE_DEVICES` from outside leaves us; the driver does not know of it.

    A uuid stands for a device even where the driver lists none of that name, as for a slice of a GPU: CUDA alone
    can say whether it is there, and an engine that does not find it says so rather than run on the CPU.

    Raises:
        InvalidSettings: it counts a GPU that is not there.
    """
    limit = environment.get("CUDA_VISIBLE_DEVICES")
    if limit is None:
        return list(gpus)
    left: list[Gpu] = []
    for position, name in enumerate(map(str.strip, limit.split(","))):
        if not GPU_NAME.fullmatch(name):  # "", "-1", "none": to CUDA the end of the list
            break
        found = _called(name, gpus) or (None if name.isdigit() else Gpu(position, name))
        if found is not None:
            left.append(found)
        elif gpus:
            raise InvalidSettings(
                f"CUDA_VISIBLE_DEVICES={limit} names GPU {name}, and only {_listed(gpus)} can be seen; "
                "correct it, or set RERANKQ_DEVICES=cpu"
            )
    return left


def _from_nvml() -> list[Gpu]:
    try:
        import pynvml
    except ImportError:
        return []
    try:
        pynvml.nvmlInit()
        handles = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
        return [Gpu(index, str(pynvml.nvmlDeviceGetUUID(handle))) for index, handle in enumerate(handles)]
    except pynvml.NVMLError:  # no driver, or one that does not answer
        return []


def _from_nvidia_smi() -> list[Gpu]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    query = [program, "--query-gpu=index,uuid", "--format=csv,noheader"]
    try:
        done = subprocess.run(  # noqa: S603 - the driver's own tool, found on the PATH
            query, capture_output=True, text=True, check=True, timeout=DRIVER_TIMEOUT_SECONDS
        )
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [line.split(", ") for line in done.stdout.splitlines() if line]
    return [Gpu(int(index), uuid.strip()) for index, uuid in rows]
