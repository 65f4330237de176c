"""The devices of this host and the engines on them: driver, memory, precision, throttling, what an engine has met."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from rerankq.contract.errors import InvalidSettings
from rerankq.contract.findings import Finding, broken, ok, skipped, warn
from rerankq.contract.setting_cures import taking_out
from rerankq_worker.doctor.libraries import Sight
from rerankq_worker.doctor.models import engine_of, facts_here, is_double
from rerankq_worker.host.devices import CPU, Device, chosen_devices
from rerankq_worker.host.gpus import BOARD, HEAT, POWER_BRAKE, nvml_of
from rerankq_worker.host.memory import memory_of
from rerankq_worker.link import health
from rerankq_worker.link.health import EngineStatus
from rerankq_worker.model.errors import ModelError
from rerankq_worker.model.facts import Facts
from rerankq_worker.model_commands.info import LEAST_BATCH_TOKENS, PRECISIONS
from rerankq_worker.model_commands.words import in_bytes
from rerankq_worker.settings import WorkerSettings

SLOW_LOAD_SHARE = 0.1
"""Of the time that a load may take, after which the engine is started anew."""
TOLD_SECONDS = 3600.0
"""For so long a new start of an engine is worth a warning."""
NVIDIA = Path("/proc/driver/nvidia/version")
"""There where the kernel has the driver loaded, whatever a container lets through."""
_AUTO = {"cpu": "fp32", "gpu": "fp16"}
_THROTTLED = {BOARD: "the board's own slowdown", HEAT: "heat", POWER_BRAKE: "the power supply's brake"}
"""Of NVML's reasons those that nobody chose; a power cap under load is normal."""


def findings(settings: WorkerSettings, sight: Callable[[], Sight | str]) -> Iterator[Finding]:
    """All devices that the settings ask for, then the engines that tell of themselves here.

    Args:
        sight: gives, after a while, what torch sees, or why it cannot be imported.
    """
    engines = {status.device: status for status in health.engines(settings.runtime_path)}
    try:
        devices = chosen_devices(settings.devices)
    except InvalidSettings as error:
        yield broken("device", str(error), "export RERANKQ_DEVICES=auto")
        devices = []
    for device in devices:
        yield _driver(device, sight)
        if device is not CPU:
            yield from _throttling(device)
        yield from _fit(device, settings, engines.get(device.name))
    for status in engines.values():
        yield from _engine(status, settings)


def _kind(device: Device) -> str:
    return "cpu" if device is CPU else "gpu"


def _driver(device: Device, torch_sees: Callable[[], Sight | str]) -> Finding:
    if device is CPU:
        if NVIDIA.exists():
            told = "the kernel has NVIDIA's driver, and none of its GPUs can be seen here (docker run --gpus all …)"
            return warn("device", told, "nvidia-smi")
        return ok("device", "cpu0: no GPU is asked for or there")
    name, driver = _named_by_nvml(device)
    sight = torch_sees()
    if not isinstance(sight, Sight):
        return skipped("device", f"{device.name}: {name}, driver {driver}; torch does not say what it sees")
    told = f"{device.name}: {name}, driver {driver}, torch is built for CUDA {sight.cuda or '(none)'}"
    if sight.cuda is None:
        return broken("device", f"{told}, and so uses no GPU", "pip install --force-reinstall torch")
    if not sight.sees_gpu:
        told += ", and cannot use it: the driver is too old for that, or broken"
        return broken("device", told, "export RERANKQ_DEVICES=cpu")
    return ok("device", told)


def _named_by_nvml(device: Device) -> tuple[str, str]:
    try:
        nvml, gpu = nvml_of(device)
        return str(nvml.nvmlDeviceGetName(gpu)), str(nvml.nvmlSystemGetDriverVersion())
    except Exception:  # noqa: BLE001 - not installed, no driver, or a slice that it does not list: not known
        return device.cuda_visible_devices, "unknown"


def _throttling(device: Device) -> Iterator[Finding]:
    check = "device.throttling"
    try:
        nvml, gpu = nvml_of(device)
        reasons = int(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(gpu))
        celsius = int(nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU))
    except Exception as error:  # noqa: BLE001 - not installed, no driver, or a card that does not tell
        yield skipped(check, f"{device.name}: NVML does not tell ({type(error).__name__})")
        return
    met = sorted(why for bits, why in _THROTTLED.items() if reasons & bits)
    if met:
        cure = "nvidia-smi -q -d PERFORMANCE,TEMPERATURE"
        yield warn(check, f"{device.name} is slowed down by {' and '.join(met)} at {celsius} °C", cure)
    else:
        yield ok(check, f"{device.name}: none, {celsius} °C")


def _fit(device: Device, settings: WorkerSettings, engine: EngineStatus | None) -> Iterator[Finding]:
    """Whether the model, in the precision asked for, is computed on the device and has room there."""
    if is_double(settings):
        return
    try:
        facts = facts_here(settings)
    except ModelError:
        yield skipped("device.memory", f"{device.name}: what the model takes is not known without its files")
        return
    if facts.engine is None:
        return
    kind, engine_name = _kind(device), engine_of(settings) or facts.engine
    dtype, offered = settings.dtype, PRECISIONS[(engine_name, kind)]
    if dtype == "auto":
        dtype = _AUTO[kind]
    if dtype not in offered:
        told = f"RERANKQ_DTYPE={dtype} is not offered on {device.name}, only {', '.join(offered)}"
        yield broken("device.dtype", told, taking_out("RERANKQ_DTYPE"))
        return
    if kind == "gpu" and dtype == "fp32":
        told = f"{device.name} computes in fp32: twice the memory and half the speed of fp16"
        yield warn("device.dtype", told, taking_out("RERANKQ_DTYPE"))
    else:
        yield ok("device.dtype", f"{device.name} computes in {dtype}")
    if engine is None or not health.is_alive(engine.pid):
        yield _room(device, facts, dtype, offered, settings)


def _room(
    device: Device, facts: Facts, dtype: str, offered: tuple[str, ...], settings: WorkerSettings
) -> Finding:
    check, memory = "device.memory", memory_of(device)
    length = min(facts.length_tokens or settings.max_length_tokens, settings.max_length_tokens)
    batch_tokens = settings.max_batch_tokens or max(length, LEAST_BATCH_TOKENS)
    needed = {each: facts.memory_bytes(each, batch_tokens) for each in offered}
    if memory is None:
        return skipped(
            check, f"nothing tells what {device.name} has; {dtype} takes {in_bytes(needed[dtype])}"
        )
    told = (
        f"{device.name}: {in_bytes(memory.free)} of {in_bytes(memory.total)} are free, {dtype} takes about "
    )
    told += in_bytes(needed[dtype])
    if needed[dtype] <= memory.free:
        return ok(check, told)
    smaller = next(
        (each for each in ("fp16", "int8", "bf16") if needed.get(each, memory.free + 1) <= memory.free), None
    )
    if smaller is not None:
        cure = f"export RERANKQ_DTYPE={smaller}"
    elif device is not CPU and needed[dtype] <= memory.total:
        told += _holders(device)
        cure = "export RERANKQ_DEVICES=cpu"
    else:
        cure = "export RERANKQ_MODEL=small"
    return broken(check, f"{told}: it runs out of memory while it is loaded", cure)


def _holders(device: Device) -> str:
    try:
        nvml, gpu = nvml_of(device)
        pids = [str(each.pid) for each in nvml.nvmlDeviceGetComputeRunningProcesses(gpu)]
    except Exception:  # noqa: BLE001 - a card that does not tell
        return ""
    return f", others have it (pid {', '.join(pids)})" if pids else ""


def _engine(status: EngineStatus, settings: WorkerSettings) -> Iterator[Finding]:
    """What an engine that reports here has met since it began."""
    check = f"engine.{status.device}"
    age = time.monotonic() - status.started_monotonic
    if not health.is_alive(status.pid):
        yield warn(check, "it has ended, and nobody has started it again", "rerankq-worker")
        return
    if status.state == "stuck":
        yield broken(
            check, "it does not answer, and is started anew; its log says why", "rerankq-worker health"
        )
    elif status.state == "loading" and age > SLOW_LOAD_SHARE * settings.load_timeout_seconds:
        allowed = f"{settings.load_timeout_seconds:.0f}"
        told = (
            f"it has been loading its model for {age:.0f} s, of a slow disk or beside others, and is started anew "
            f"after {allowed} s (RERANKQ_LOAD_TIMEOUT_SECONDS)"
        )
        yield warn(check, told, f"export RERANKQ_LOAD_TIMEOUT_SECONDS={2 * age / SLOW_LOAD_SHARE:.0f}")
    elif status.out_of_memory:
        halved = max(settings.max_length_tokens, status.max_batch_tokens // 2)
        told = f"{status.out_of_memory:,} batches did not fit its memory and were halved; restart it with smaller ones"
        yield warn(check, told, f"export RERANKQ_MAX_BATCH_TOKENS={halved}")
    elif status.starts > 1 and age < TOLD_SECONDS:
        told = f"it was started {status.starts:,} times, last {age:.0f} s ago; the log of rerankq-worker says why"
        yield warn(check, told, "rerankq model verify")
    else:
        yield ok(check, f"{status.state}, started {age:,.0f} s ago, {status.pairs:,} pairs scored")
