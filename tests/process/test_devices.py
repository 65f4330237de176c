"""Which devices are served for what the settings ask and what the host has."""

import sys
from types import SimpleNamespace

import pytest

from rerankq.contract.errors import InvalidSettings
from rerankq_worker.engine.errors import EngineError
from rerankq_worker.engine.precision import choose_device
from rerankq_worker.host.devices import CPU, Device, Gpu, chosen_devices, left_visible, visible_gpus

TWO = [Gpu(0, "GPU-aaaa-1111"), Gpu(1, "GPU-bbbb-2222")]


@pytest.mark.parametrize(
    ("asked", "gpus", "expected"),
    [
        pytest.param("cpu", TWO, [CPU], id="cpu although there are gpus"),
        pytest.param("auto", [], [CPU], id="auto without a gpu"),
        pytest.param(
            "auto",
            TWO,
            [Device("gpu0", "GPU-aaaa-1111"), Device("gpu1", "GPU-bbbb-2222")],
            id="auto takes all",
        ),
        pytest.param("1", TWO, [Device("gpu1", "GPU-bbbb-2222")], id="by index"),
        pytest.param("GPU-bbbb", TWO, [Device("gpu1", "GPU-bbbb-2222")], id="by the head of its uuid"),
        pytest.param("MIG-77-8", TWO, [Device("gpu0", "MIG-77-8")], id="a slice, unchecked"),
        pytest.param(
            "MIG-GPU-aaaa-1111/1/0,MIG-77",
            TWO,
            [Device("gpu0", "MIG-GPU-aaaa-1111/1/0"), Device("gpu1", "MIG-77")],
            id="slices by both kinds of names",
        ),
        pytest.param(
            "1, 0", TWO, [Device("gpu1", "GPU-bbbb-2222"), Device("gpu0", "GPU-aaaa-1111")], id="in any order"
        ),
    ],
)
def test_devices_are_chosen_as_asked(asked: str, gpus: list[Gpu], expected: list[Device]) -> None:
    assert chosen_devices(asked, lambda: gpus) == expected


@pytest.mark.parametrize(
    ("asked", "gpus", "message"),
    [
        pytest.param("0", [], "no GPU is visible and RERANKQ_DEVICES=0 asks for one", id="none at all"),
        pytest.param("2", TWO, "asks for GPU 2, and only 0 .* can be seen", id="not that one"),
        pytest.param("0,0", TWO, "expected each GPU once", id="twice"),
        pytest.param("0,GPU-aaaa", TWO, "expected each GPU once", id="twice by two names"),
        pytest.param("cuda", TWO, "expected auto, cpu, or GPUs such as", id="another word"),
        pytest.param("cpu,0", TWO, "expected auto, cpu, or GPUs such as", id="a mixture"),
    ],
)
def test_what_is_not_there_is_refused_with_the_way_out(asked: str, gpus: list[Gpu], message: str) -> None:
    with pytest.raises(InvalidSettings, match=message):
        chosen_devices(asked, lambda: gpus)


@pytest.mark.parametrize(
    ("limit", "left"),
    [
        pytest.param(None, [0, 1], id="unset"),
        pytest.param("", [], id="empty"),
        pytest.param("-1", [], id="minus one"),
        pytest.param("1", [1], id="by index"),
        pytest.param("GPU-bbbb,0", [1, 0], id="by uuid, reordered"),
        pytest.param("1,-1,0", [1], id="up to minus one"),
        pytest.param("none", [], id="a word for none"),
    ],
)
def test_cuda_visible_devices_from_outside_is_obeyed(limit: str | None, left: list[int]) -> None:
    environment = {} if limit is None else {"CUDA_VISIBLE_DEVICES": limit}

    assert [gpu.index for gpu in left_visible(TWO, environment)] == left


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The uuids of the GPUs that NVML lists; the test fills it."""
    uuids: list[str] = []
    nvml = SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: len(uuids),
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetUUID=lambda handle: uuids[handle],
        NVMLError=RuntimeError,
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setenv("PATH", "")  # nor is there an nvidia-smi
    return uuids


SLICE = "MIG-4d3f7f3a-3f0f-5a9b-8f5e-0a1b2c3d4e5f"


@pytest.mark.parametrize("asked", ["auto", SLICE, "0"])
@pytest.mark.parametrize("listed", [["GPU-aaaa-1111"], []], ids=["its GPU is listed", "no driver answers"])
@pytest.mark.parametrize("name", [SLICE, "MIG-GPU-aaaa-1111/1/0"], ids=["new name", "old name"])
def test_a_slice_in_cuda_visible_devices_is_the_one_that_is_served(
    driver: list[str], monkeypatch: pytest.MonkeyPatch, asked: str, listed: list[str], name: str
) -> None:
    driver += listed
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", name)

    assert chosen_devices(name if asked == SLICE else asked, visible_gpus) == [Device("gpu0", name)]


def test_a_count_beyond_the_gpus_there_are_is_no_reason_for_the_cpu(
    driver: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    driver += ["GPU-aaaa-1111"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")

    with pytest.raises(InvalidSettings, match="CUDA_VISIBLE_DEVICES=3 names GPU 3, and only 0"):
        chosen_devices("auto", visible_gpus)


def test_a_host_without_any_gpu_is_served_on_its_cpu(
    driver: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")

    assert (driver, chosen_devices("auto", visible_gpus)) == ([], [CPU])


def test_an_engine_alone_does_not_take_the_cpu_for_a_slice_that_cuda_does_not_see(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", SLICE)

    with pytest.raises(EngineError, match="CUDA sees no device CUDA_VISIBLE_DEVICES=MIG-"):
        choose_device("auto")
