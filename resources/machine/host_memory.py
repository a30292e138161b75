"""How much memory this process can still allocate on its machine."""

from __future__ import annotations

from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


def available_memory(groups: Path = CGROUPS, membership: Path = MEMBERSHIP) -> int:
    """Bytes: what the machine has available, swap space included, or what the limits of this process's control
    groups leave (a container's, a batch job's), if that is less."""
    import psutil

    machine = psutil.virtual_memory().available + psutil.swap_memory().free
    return min([machine, *_left_by_limits(groups, membership)])


def _left_by_limits(groups: Path, membership: Path) -> list[int]:
    """Bytes that every limited group above this process leaves (cgroup v2; nothing where there is none)."""
    try:
        line = next(line for line in membership.read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        return []
    own = groups / line.removeprefix("0::").strip("/")
    free: list[int] = []
    for group in [own, *own.parents]:
        if group == groups.parent:
            break
        limit, used = _number(group / "memory.max"), _number(group / "memory.current")
        if limit is not None and used is not None:
            free.append(max(0, limit - used + _reclaimable(group / "memory.stat")))
    return free


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
