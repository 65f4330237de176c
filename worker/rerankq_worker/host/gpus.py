"""How the GPUs of this host are, as their driver tells (NVML): memory, load, heat, and whether they are held back.

Nothing where there is no NVML, or a device is no GPU; what a device cannot tell (a slice of a GPU: its load) is left
out. Never asks torch.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rerankq_worker.host.devices import Device

GPU_GAUGES: Mapping[str, tuple[str, list[str]]] = {
    "rerankq_gpu_memory_used_bytes": ("Memory in use, by whomever.", ["device"]),
    "rerankq_gpu_memory_bytes": ("Memory in all.", ["device"]),
    "rerankq_gpu_utilization_ratio": ("Share of the last moment in which it computed anything.", ["device"]),
    "rerankq_gpu_temperature_celsius": ("Its temperature.", ["device"]),
    "rerankq_gpu_power_watts": ("What it draws.", ["device"]),
    "rerankq_gpu_throttled": ("1: its clock is held back, and why.", ["device", "reason"]),
}
# Bits of nvmlClocksEventReasons; an idle device, or one whose clock was chosen, is not held back.
POWER_CAP, BOARD, HEAT, POWER_BRAKE = 0x04, 0x08, 0x20 | 0x40, 0x80
THROTTLES: Mapping[str, int] = {"power": POWER_CAP | POWER_BRAKE, "heat": HEAT, "hardware": BOARD}

_Sample = tuple[str, list[str], float]


def gpu_readings(devices: Sequence[Device]) -> Iterator[_Sample]:
    """What the driver tells of each GPU among these devices.

    Raises:
        pynvml.NVMLError: the driver does not answer, or does not know one of them any more.
    """
    for device in devices:
        if not device.cuda_visible_devices:
            continue
        try:
            nvml, gpu = nvml_of(device)
        except ImportError:
            return
        for read in _READINGS:
            try:
                yield from ((name, [device.name, *more], value) for name, more, value in read(nvml, gpu))
            except nvml.NVMLError as error:
                if error.value not in (nvml.NVML_ERROR_NOT_SUPPORTED, nvml.NVML_ERROR_INVALID_ARGUMENT):
                    raise


def nvml_of(device: Device) -> tuple[Any, Any]:
    """NVIDIA's library, and what a GPU is to it.

    Raises:
        ImportError: it is not installed.
        pynvml.NVMLError: the driver does not answer, or does not know this one.
    """
    import pynvml

    pynvml.nvmlInit()  # counted; costs nothing once it is done
    return pynvml, pynvml.nvmlDeviceGetHandleByUUID(device.cuda_visible_devices)


def _memory(nvml: Any, handle: Any) -> Iterator[_Sample]:
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    yield "rerankq_gpu_memory_used_bytes", [], memory.used
    yield "rerankq_gpu_memory_bytes", [], memory.total


def _utilization(nvml: Any, handle: Any) -> Iterator[_Sample]:
    yield "rerankq_gpu_utilization_ratio", [], nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100


def _temperature(nvml: Any, handle: Any) -> Iterator[_Sample]:
    celsius = nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)
    yield "rerankq_gpu_temperature_celsius", [], celsius


def _power(nvml: Any, handle: Any) -> Iterator[_Sample]:
    yield "rerankq_gpu_power_watts", [], nvml.nvmlDeviceGetPowerUsage(handle) / 1000


def _throttles(nvml: Any, handle: Any) -> Iterator[_Sample]:
    told = nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)
    for reason, bits in THROTTLES.items():
        yield "rerankq_gpu_throttled", [reason], float(bool(told & bits))


_READINGS: Sequence[Callable[[Any, Any], Iterator[_Sample]]] = (
    _memory,
    _utilization,
    _temperature,
    _power,
    _throttles,
)
