"""The device that training and embedding run on.

Devices are numbered as torch does: it sees the GPUs or MIG instances that ``CUDA_VISIBLE_DEVICES`` names, and reports
the free memory of each. NVML numbers the machine's GPUs in another order, so its numbers are not used here.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace

from resources.machine.host_memory import available_memory, total_memory
from resources.machine.memory_estimate import GB, MemoryNeed
from storage.errors import RetuneError

VISIBLE = "CUDA_VISIBLE_DEVICES"
DEVICES = r"^(auto|cpu|mps|cuda(:[0-9]+)?)$"


class NotEnoughMemoryError(RetuneError, RuntimeError):
    """A stage would need more memory than its device has free; the message has the figures and what to change."""


class DeviceError(RetuneError, ValueError):
    """A device was asked for that this machine or this torch build does not have."""


@dataclass(frozen=True)
class Accelerator:
    """A torch device and what it can do. ``memory_bytes`` is what is free on it now, ``total_bytes`` all it has; 0
    where that is unknown or not checked."""

    device: str
    name: str
    bf16: bool
    memory_bytes: int
    total_bytes: int = 0

    def admit(self, need: MemoryNeed, changes: Iterable[tuple[str, MemoryNeed]] = ()) -> None:
        """Check that ``need`` fits into the free memory.

        Args:
            changes: what a user could set instead, and what would then be needed; the first that fits is named.

        Raises:
            NotEnoughMemoryError: it does not fit.
        """
        if not self.memory_bytes or need.total <= self.memory_bytes:
            return
        fitting = next(((text, less) for text, less in changes if less.total <= self.memory_bytes), None)
        way_out = f"{fitting[0]} would need {fitting[1].total / GB:.2f} GB" if fitting else NO_WAY_OUT
        raise NotEnoughMemoryError(
            f"{need.purpose} would need about {need}, and {self.memory_bytes / GB:.2f} GB are free on {self.device} "
            f"({self.name}). {way_out}. accelerator.check_memory=false tries it nevertheless"
        )


NO_WAY_OUT = (
    "No setting makes it small enough: free memory by ending other programs, or use a smaller model or a larger "
    "device"
)


def find_accelerator(device: str = "auto", *, check_memory: bool = True) -> Accelerator:
    """Describe the wanted device as it is now; ``auto`` takes CUDA, then Apple's MPS, then the CPU.

    Args:
        check_memory: whether its free memory is looked at, so that :meth:`Accelerator.admit` can refuse a stage.

    Raises:
        DeviceError: a device was asked for that this machine or this torch build does not have.
    """
    found = _find(device)
    return found if check_memory else replace(found, memory_bytes=0, total_bytes=0)


def _find(device: str) -> Accelerator:
    import torch

    if device == "auto":
        device = (
            "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        )
    if device.startswith("cuda"):
        return _cuda(device)
    if device == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("accelerator 'mps' was asked for, but this machine has none: use 'auto' or 'cpu'")
    return _host(device)


def visible_gpus() -> int:
    """How many CUDA devices this process sees: GPUs or MIG instances."""
    import torch

    return torch.cuda.device_count()


def _cuda(device: str) -> Accelerator:
    import torch

    count = visible_gpus()
    if not torch.cuda.is_available() or count == 0:
        raise DeviceError(
            f"accelerator {device!r} was asked for, but torch {torch.__version__} sees no CUDA device{_left()}: "
            "install a CUDA build of torch, check nvidia-smi, or use 'auto' or 'cpu'"
        )
    index = int(device.partition(":")[2] or 0)
    if index >= count:
        raise DeviceError(
            f"accelerator {device!r} was asked for, but torch sees {count} CUDA device(s){_left()}: "
            f"the last is 'cuda:{count - 1}'"
        )
    free, total = torch.cuda.mem_get_info(index)
    # What torch keeps for itself without using it is free for the next model.
    free += torch.cuda.memory_reserved(index) - torch.cuda.memory_allocated(index)
    name = torch.cuda.get_device_name(index)
    return Accelerator(device, name, torch.cuda.is_bf16_supported(including_emulation=False), free, total)


def _left() -> str:
    return f" ({VISIBLE}={os.environ[VISIBLE]})" if VISIBLE in os.environ else ""


def _host(device: str) -> Accelerator:
    import platform

    import torch

    bf16 = device == "cpu" and bool(torch.cpu.get_capabilities().get("avx512_bf16", False))
    name = platform.processor() or platform.machine()
    return Accelerator(device, name, bf16, available_memory(), total_memory())
