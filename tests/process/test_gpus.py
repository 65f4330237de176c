"""What the driver tells of GPUs, by a stand-in for NVML: its numbers in our units, and no more than a device tells."""

# ruff: noqa: N802, ARG002 - names and arguments are NVML's

import sys
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from redis import Redis

from rerankq_worker.host.devices import CPU, Device
from rerankq_worker.host.gpus import GPU_GAUGES, gpu_readings
from rerankq_worker.host.metrics import RedisMetrics
from tests.redis_server import RedisServer

WHOLE, SLICE = Device("gpu0", "GPU-1"), Device("gpu1", "MIG-2")
NOT_SUPPORTED, INVALID_ARGUMENT, GPU_IS_LOST = 3, 2, 15


class NVMLError(Exception):
    """As the library has it."""

    def __init__(self, value: int) -> None:
        super().__init__(value)
        self.value = value


class Nvml(ModuleType):
    """As much of `pynvml` as is asked, with one GPU and a slice of another."""

    NVMLError = NVMLError
    NVML_ERROR_NOT_SUPPORTED = NOT_SUPPORTED
    NVML_ERROR_INVALID_ARGUMENT = INVALID_ARGUMENT
    NVML_TEMPERATURE_GPU = 0

    def __init__(self) -> None:
        super().__init__("pynvml")
        self.lost: set[str] = set()
        self.clocks = 0
        self.is_up = True

    def nvmlInit(self) -> None:
        if not self.is_up:
            raise NVMLError(9)

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        if uuid in self.lost:
            raise NVMLError(GPU_IS_LOST)
        return uuid

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> Any:
        return SimpleNamespace(total=80 * 2**30, used=20 * 2**30, free=60 * 2**30)

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> Any:
        self._refuse_slices(handle, NOT_SUPPORTED)
        return SimpleNamespace(gpu=97, memory=40)

    def nvmlDeviceGetTemperature(self, handle: str, sensor: int) -> int:
        self._refuse_slices(handle, INVALID_ARGUMENT)
        return 66

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:
        self._refuse_slices(handle, NOT_SUPPORTED)
        return 512_300

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: str) -> int:
        self._refuse_slices(handle, NOT_SUPPORTED)
        return self.clocks

    def _refuse_slices(self, handle: str, why: int) -> None:
        if handle.startswith("MIG-"):
            raise NVMLError(why)


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Nvml:
    """In the library's place."""
    monkeypatch.setitem(sys.modules, "pynvml", made := Nvml())
    return made


def told(*devices: Device) -> dict[tuple[str, ...], float]:
    return {
        (name.removeprefix("rerankq_gpu_"), *labels): value for name, labels, value in gpu_readings(devices)
    }


def test_a_gpu_tells_memory_load_heat_power_and_what_holds_it_back(nvml: Nvml) -> None:
    assert told(WHOLE) == {
        ("memory_used_bytes", "gpu0"): 20 * 2**30,
        ("memory_bytes", "gpu0"): 80 * 2**30,
        ("utilization_ratio", "gpu0"): 0.97,
        ("temperature_celsius", "gpu0"): 66,
        ("power_watts", "gpu0"): 512.3,
        ("throttled", "gpu0", "power"): 0,
        ("throttled", "gpu0", "heat"): 0,
        ("throttled", "gpu0", "hardware"): 0,
    }
    assert {f"rerankq_gpu_{name}" for name, *_ in told(WHOLE)} == GPU_GAUGES.keys()


THROTTLES = {
    "idle": (0x1, set[str]()),
    "a clock that was chosen": (0x2 | 0x100, set[str]()),
    "its cap": (0x4, {"power"}),
    "the power supply": (0x8 | 0x80, {"power", "hardware"}),
    "too warm, by the driver": (0x20, {"heat"}),
    "too warm, by itself": (0x8 | 0x40, {"heat", "hardware"}),
}


@pytest.mark.parametrize(("clocks", "reasons"), THROTTLES.values(), ids=THROTTLES)
def test_what_holds_a_gpu_back_is_told_by_its_reason(nvml: Nvml, clocks: int, reasons: set[str]) -> None:
    nvml.clocks = clocks

    assert {name[2] for name, value in told(WHOLE).items() if name[0] == "throttled" and value} == reasons


def test_a_slice_of_a_gpu_tells_its_memory_alone(nvml: Nvml) -> None:
    assert {name for name, *_ in told(SLICE)} == {"memory_used_bytes", "memory_bytes"}


def test_a_host_without_gpus_asks_no_driver(nvml: Nvml) -> None:
    nvml.is_up = False

    assert told(CPU) == {}


def test_without_the_library_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)

    assert told(WHOLE) == {}


@pytest.fixture
def redis(redis_server: RedisServer) -> "Iterator[Redis]":
    with redis_server.client() as client:
        yield client


LOSSES: dict[str, Callable[[Nvml], object]] = {
    "one has fallen off its bus": lambda nvml: nvml.lost.add("GPU-1"),
    "the driver does not answer": lambda nvml: setattr(nvml, "is_up", False),
}


@pytest.mark.parametrize("lose", LOSSES.values(), ids=LOSSES)
def test_a_gpu_that_is_lost_hides_the_gpus_says_so_and_leaves_the_rest(
    nvml: Nvml, redis: "Redis", lose: Callable[[Nvml], object]
) -> None:
    scrape = RedisMetrics({"broker": redis}, {"gpus": lambda: gpu_readings([WHOLE])})
    assert "rerankq_gpu_memory_bytes" in _names(scrape)
    lose(nvml)

    seen = {family.name: family for family in scrape.collect() if family.samples}

    errors = {sample.labels["part"]: sample.value for sample in seen["rerankq_scrape_errors"].samples}
    assert not any(name.startswith("rerankq_gpu") for name in seen)
    assert {part for part, count in errors.items() if count} == {"gpus"}
    assert "rerankq_lane_jobs" in seen


def _names(scrape: RedisMetrics) -> set[str]:
    return {family.name for family in scrape.collect() if family.samples}
