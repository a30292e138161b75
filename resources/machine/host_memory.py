"""How much memory this process can allocate on its machine: still, and at all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


def available_memory(groups: Path = CGROUPS, membership: Path = MEMBERSHIP) -> int:
    """Bytes: what the machine has available, swap space included, or what the limits of this process's control
    groups leave (a container's, a batch job's), if that is less."""
    import psutil

    machine = psutil.virtual_memory().available + psutil.swap_memory().free
    left = (
        max(0, limit - used + _reclaimable(group / "memory.stat"))
        for group, limit in _limits(groups, membership)
        if (used := _number(group / "memory.current")) is not None
    )
    return min([machine, *left])


def total_memory(groups: Path = CGROUPS, membership: Path = MEMBERSHIP) -> int:
    """Bytes: the machine's, or the least limit of this process's control groups."""
    import psutil

    return min([psutil.virtual_memory().total, *(limit for _, limit in _limits(groups, membership))])


def _limits(groups: Path, membership: Path) -> Iterator[tuple[Path, int]]:
    """Every limited group above this process with its limit (cgroup v2; nothing where there is none)."""
    try:
        line = next(line for line in membership.read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        return
    own = groups / line.removeprefix("0::").strip("/")
    for group in [own, *own.parents]:
        if group == groups.parent:
            return
        limit = _number(group / "memory.max")
        if limit is not None:
            yield group, limit


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # not there, or "max"
        return None


def _reclaimable(path: Path) -> int:
    """Cached file contents, which the kernel frees before it kills a process."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))
