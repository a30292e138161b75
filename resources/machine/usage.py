"""Resource usage of a step: peak memory, and the utilisation of GPUs where NVIDIA's NVML reports it."""

from __future__ import annotations

import platform
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from importlib import import_module
from statistics import fmean
from typing import Any, Self

from resources.machine.memory_estimate import GB

EVERY_SECONDS = 0.5


class UsageMeter:
    """Samples this process and its children every half second until it is stopped.

    A GPU is sampled once the step has used one: nothing here starts CUDA or loads torch.
    """

    def __init__(self) -> None:
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._sample_until_stopped, name="usage-meter", daemon=True)
        self._host_peak = 0
        self._gpu = GpuWatch()

    def __enter__(self) -> Self:
        self._gpu.reset()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def figures(self) -> dict[str, Any]:
        """``device`` (its name), ``peak_memory_gb`` (of this process and its children on the host); with a GPU also
        ``gpu_peak_memory_gb`` (what torch took in this process), and from NVML ``gpu_memory_in_use_peak_gb`` (by
        all processes) and ``gpu_utilisation_percent`` (mean)."""
        return {
            "device": platform.processor() or platform.machine(),
            "peak_memory_gb": round(self._host_peak / GB, 2),
            **self._gpu.figures(),
        }

    def _sample_until_stopped(self) -> None:
        with nvml() as library:
            while not self._stopped.is_set():
                self._sample(library)
                self._stopped.wait(EVERY_SECONDS)
            self._sample(library)

    def _sample(self, library: Any) -> None:
        self._host_peak = max(self._host_peak, host_memory_in_use())
        self._gpu.look(library)


def host_memory_in_use() -> int:
    """Bytes of physical memory that this process and its children hold; shared pages count in each."""
    import psutil

    own = psutil.Process()
    total = 0
    for process in [own, *own.children(recursive=True)]:
        try:
            total += process.memory_info().rss
        except (psutil.NoSuchProcess, psutil.AccessDenied):  # it has just ended
            continue
    return total


class GpuWatch:
    """The CUDA devices of this process, once torch has started one."""

    def __init__(self) -> None:
        self._busy: list[int] = []
        self._in_use = 0

    def reset(self) -> None:
        """Forget the peaks of earlier steps in this process."""
        cuda = _started_cuda()
        for index in range(cuda.device_count() if cuda else 0):
            cuda.reset_peak_memory_stats(index)

    def look(self, library: Any) -> None:
        """Take one sample of each device from NVML, if there is NVML."""
        cuda = _started_cuda()
        if cuda is None or library is None:
            return
        for index in range(cuda.device_count()):
            handle = find_handle(library, str(cuda.get_device_properties(index).uuid))
            if handle is not None:
                self._sample(library, handle)

    def _sample(self, library: Any, handle: Any) -> None:
        in_use = ask(library, library.nvmlDeviceGetMemoryInfo, handle)
        self._in_use = max(self._in_use, in_use.used if in_use else 0)
        rates = ask(library, library.nvmlDeviceGetUtilizationRates, handle)  # a MIG instance has none
        if rates is not None:
            self._busy.append(int(rates.gpu))

    def figures(self) -> dict[str, Any]:
        cuda = _started_cuda()
        if cuda is None:
            return {}
        indices = range(cuda.device_count())
        peaks = [cuda.max_memory_reserved(index) for index in indices]
        names = [cuda.get_device_name(index) for index in indices if peaks[index] or len(peaks) == 1]
        found: dict[str, Any] = {
            "device": ", ".join(names) or cuda.get_device_name(0),
            "gpu_peak_memory_gb": round(max(peaks) / GB, 2),
        }
        if self._in_use:
            found["gpu_memory_in_use_peak_gb"] = round(self._in_use / GB, 2)
        if self._busy:
            found["gpu_utilisation_percent"] = round(fmean(self._busy), 1)
        return found


@contextmanager
def nvml() -> Generator[Any]:
    """NVIDIA's management library; None where it or its driver is missing."""
    try:
        library: Any = import_module("pynvml")
    except ImportError:
        yield None
        return
    try:
        library.nvmlInit()
    except library.NVMLError:
        yield None
        return
    try:
        yield library
    finally:
        library.nvmlShutdown()


def find_handle(library: Any, uuid: str) -> Any:
    """NVML's handle of the device with torch's ``uuid``: a GPU or a MIG instance; None if there is none.

    Indices would not do: torch counts the devices that are visible, fastest first, NVML all, by bus address.
    """
    bare = uuid.removeprefix("GPU-").removeprefix("MIG-")
    for name in (f"GPU-{bare}", f"MIG-{bare}"):
        handle = ask(library, library.nvmlDeviceGetHandleByUUID, name)
        if handle is not None:
            return handle
    return None


def ask(library: Any, question: Any, *arguments: Any) -> Any:
    """The answer of an NVML function; None where the device or the driver has none."""
    try:
        return question(*arguments)
    except library.NVMLError:
        return None


def _started_cuda() -> Any:
    """``torch.cuda`` if this process uses it already, else None."""
    torch: Any = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)
    return cuda if cuda is not None and cuda.is_initialized() else None
