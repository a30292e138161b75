"""What a step took, measured on this machine; NVML where there is no NVIDIA driver."""

from __future__ import annotations

import subprocess
import sys
import time
from types import SimpleNamespace
from typing import Any

import pytest

from resources.machine.usage import UsageMeter, ask, find_handle, host_memory_in_use, nvml


def test_the_peak_counts_even_when_it_is_gone() -> None:
    with UsageMeter() as meter:
        before = host_memory_in_use()
        block = bytearray(300_000_000)
        deadline = time.monotonic() + 10
        while meter.figures()["peak_memory_gb"] * 1e9 < before + 290_000_000:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        del block
    figures = meter.figures()
    assert figures["peak_memory_gb"] * 1e9 >= before + 290_000_000
    assert figures["device"]


def test_children_count() -> None:
    code = "block = bytearray(200_000_000); print('ready', flush=True); input()"
    before = host_memory_in_use()
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        assert host_memory_in_use() >= before + 190_000_000
        child.communicate("\n")


def test_without_a_driver_there_are_no_figures_of_a_gpu() -> None:
    """The real library, on a machine that has no NVIDIA driver: the answer is None, not an error."""
    pynvml = pytest.importorskip("pynvml")
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        with nvml() as library:
            assert library is None
        with UsageMeter() as meter:
            pass
        assert not [name for name in meter.figures() if name.startswith("gpu")]
    else:
        pynvml.nvmlShutdown()
        with nvml() as library:
            assert library is not None


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with nvml() as library:
        assert library is None


class NVMLError(Exception):
    """As the library's."""


def library_of(*uuids: str) -> Any:
    """A stand-in for NVML that knows these devices."""

    def by_uuid(uuid: str) -> str:
        if uuid not in uuids:
            raise NVMLError("Not Found")
        return uuid

    return SimpleNamespace(NVMLError=NVMLError, nvmlDeviceGetHandleByUUID=by_uuid)


@pytest.mark.parametrize(
    ("torch_says", "found"),
    [("aa-1", "GPU-aa-1"), ("bb-2", "MIG-bb-2"), ("MIG-bb-2", "MIG-bb-2"), ("x", None)],
)
def test_devices_are_found_by_uuid(torch_says: str, found: str | None) -> None:
    assert find_handle(library_of("GPU-aa-1", "MIG-bb-2"), torch_says) == found


def test_a_question_that_a_mig_instance_cannot_answer() -> None:
    def no_rates(handle: str) -> None:
        raise NVMLError("Not Supported")

    assert ask(library_of(), no_rates, "MIG-bb-2") is None
