"""Which devices are served for what the settings ask and what the host has."""

import pytest

from rerankq.contract.errors import InvalidSettings
from rerankq_worker.devices import CPU, Device, Gpu, chosen_devices, left_visible

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
    ],
)
def test_cuda_visible_devices_from_outside_is_obeyed(limit: str | None, left: list[int]) -> None:
    environment = {} if limit is None else {"CUDA_VISIBLE_DEVICES": limit}

    assert [gpu.index for gpu in left_visible(TWO, environment)] == left
