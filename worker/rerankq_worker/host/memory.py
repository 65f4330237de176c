"""How much memory a device of this host has, and has free: as the driver and the kernel tell, without torch."""

from dataclasses import dataclass
from pathlib import Path

from rerankq_worker.host.devices import Device

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """In bytes."""

    total: int
    free: int


def memory_of(device: Device) -> DeviceMemory | None:
    """What a device has; None where nothing tells."""
    return _of_gpu(device.cuda_visible_devices) if device.cuda_visible_devices else _of_host()


def _of_host() -> DeviceMemory | None:
    """The machine's memory, or this container's where that is less."""
    try:
        told = dict(line.split(":") for line in MEMINFO.read_text().splitlines())
        total, free = (int(told[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    except (OSError, KeyError, ValueError):  # another kernel than Linux
        return None
    try:
        limit, used = (int((CGROUP / name).read_text()) for name in ("memory.max", "memory.current"))
    except (OSError, ValueError):  # no container, or one without a limit ("max")
        return DeviceMemory(total, free)
    return DeviceMemory(min(total, limit), min(free, max(0, limit - used)))


def _of_gpu(uuid: str) -> DeviceMemory | None:
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        told = pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByUUID(uuid))
    except pynvml.NVMLError:  # no driver, or a slice of a GPU that it does not list
        return None
    return DeviceMemory(int(told.total), int(told.free))
