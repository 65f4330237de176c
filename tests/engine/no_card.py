"""A card that computes nothing: torch's fake tensors say they are on CUDA, and every operation checks what it is given.

Shown without a GPU: shapes, precisions and devices of a whole forward pass, what it would wait for (a number read on
the host is refused by fake tensors), and what crosses between host and device.
"""

import ctypes
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CARD = torch.device("cuda", 0)
CUDA_TYPE, META_TYPE, TYPES = 1, 14, 20
"""Of c10::DeviceType."""


@dataclass(frozen=True, slots=True)
class Crossing:
    operation: str
    to: str
    waits: bool
    """Whether the host waits until it is done, and so for all that was queued before."""


class Card(TorchDispatchMode):
    """What crosses while it is entered; pinned memory is any memory here."""

    def __init__(self) -> None:
        super().__init__()
        self.crossings: list[Crossing] = []
        self.operations: list[str] = []

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        options, name = dict(kwargs or {}), str(func)
        if "pin_memory" in name:
            self.operations.append(name)
            return args[0]
        if options.pop("pin_memory", False):
            self.operations.append("aten.pin_memory.default")
        out = func(*args, **options)
        self.operations.append(name)
        tensors = [leaf for leaf in tree_leaves((args, options, out)) if isinstance(leaf, torch.Tensor)]
        if len({tensor.device.type for tensor in tensors if tensor.dim() or tensor.is_cuda}) > 1:
            target = args[0] if "copy_" in name and "_copy" not in name else out
            unblocked = options.get("non_blocking") or (name.startswith("aten.copy_") and args[-1] is True)
            self.crossings.append(Crossing(name, target.device.type, not unblocked))
        return out


@contextmanager
def no_card(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int] = (9, 0)) -> Iterator[Card]:
    """Within it tensors may be on `CARD`, and real ones on the CPU become fake where they meet them."""
    _guard_cuda()
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _=None: capability)
    with FakeTensorMode(allow_non_fake_inputs=True), Card() as card:
        yield card


def really(step: Any, *arguments: Any) -> Any:
    """Done with real tensors, within `no_card`."""
    with unset_fake_temporarily():
        return step(*arguments)


def _guard_cuda() -> None:
    """A build of torch without CUDA has nothing that switches between cards, which it asks for even here: "meta" does
    nothing, as is right. A build with CUDA that finds no card does so itself (`_ensureCUDADeviceGuardSet`).
    """
    if torch.backends.cuda.is_built():
        return
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libc10.so"))
    try:
        guards = (ctypes.c_void_p * TYPES).in_dll(library, "_ZN3c104impl26device_guard_impl_registryE")
    except ValueError:
        pytest.skip(f"torch {torch.__version__} was built without CUDA, and does not show its device guards")
    guards[CUDA_TYPE] = guards[CUDA_TYPE] or guards[META_TYPE]
