"""The device that heavy steps run on, as a resource: found once, handed in, named in the results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import dagster as dg


@dataclass(frozen=True)
class Accelerator:
    """A torch device and what it can do. ``memory_bytes`` is what is free on it now."""

    device: str
    name: str
    bf16: bool
    memory_bytes: int


def find_accelerator(device: str = "auto") -> Accelerator:
    """Describe the wanted device; ``auto`` takes CUDA, then Apple's MPS, then the CPU.

    Raises:
        ValueError: a device was asked for that this machine or this torch build does not have.
    """
    import torch

    if device == "auto":
        device = (
            "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        )
    if device.startswith("cuda"):
        return _cuda(device)
    if device == "mps" and not torch.backends.mps.is_available():
        raise ValueError("accelerator 'mps' was asked for, but this machine has none: use 'auto' or 'cpu'")
    return _cpu(device)


def _cuda(device: str) -> Accelerator:
    import torch

    if not torch.cuda.is_available():
        raise ValueError(
            f"accelerator {device!r} was asked for, but torch {torch.__version__} sees no CUDA device: "
            "install a CUDA build of torch, check nvidia-smi, or use 'auto' or 'cpu'"
        )
    free, _ = torch.cuda.mem_get_info(device)
    return Accelerator(device, torch.cuda.get_device_name(device), torch.cuda.is_bf16_supported(), free)


def _cpu(device: str) -> Accelerator:
    import platform

    import psutil
    import torch

    bf16 = device == "cpu" and bool(torch.cpu.get_capabilities().get("avx512_bf16", False))
    return Accelerator(
        device, platform.processor() or platform.machine(), bf16, psutil.virtual_memory().available
    )


class AcceleratorResource(dg.ConfigurableResource[Any]):
    """Injected into every step that trains or embeds.

    ``device``: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
    """

    device: str = "auto"

    def get(self) -> Accelerator:
        """Look at the machine now (free memory changes between steps)."""
        return find_accelerator(self.device)
