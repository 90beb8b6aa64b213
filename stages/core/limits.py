"""What this process may use: cores and memory, as the system and every control group above it allow.

In a container the machine's figures are not the process's: a quota on time and a limit on memory lie in the control
groups (version 2: cpu.max and memory.max from the process's group up to the root; version 1: one tree a resource).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")
MEMORY = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def cores(root: Path = ROOT) -> int:
    """Cores that this process may use: those of its affinity, or as many as its quota of time is worth, rounded up."""
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(min([own, *(math.ceil(quota) for quota in _quotas(root))]), 1)


def free_memory(root: Path = ROOT) -> int | None:
    """Bytes that this process may still take, or None where the system does not tell.

    The least of what the machine has available and what each limit above leaves. Pages of files that a group could give
    back count as free, as they do in the machine's own figure.
    """
    left = [total - used for total, used in _limits(root)]
    for line in _lines(root / "proc/meminfo"):
        if line.startswith("MemAvailable:"):
            left.append(1024 * int(line.split()[1]))
    return max(min(left), 0) if left else None


def _limits(root: Path) -> Iterator[tuple[int, int]]:
    """Limit and use, in bytes, of every group above this process that has a limit."""
    for folder in _groups(root, "memory"):
        for limit, usage, cache in MEMORY:
            total, used = _number(folder / limit), _number(folder / usage)
            if total is not None and used is not None:
                kept = [int(line.split()[1]) for line in _lines(folder / "memory.stat") if line.split()[0] == cache]
                yield total, used - sum(kept)


def _quotas(root: Path) -> Iterator[float]:
    """Cores' worth of time of every group above this process that has a quota."""
    for folder in _groups(root, "cpu"):
        words = next(iter(_lines(folder / "cpu.max")), "max 1").split()
        if words[0] != "max":
            yield int(words[0]) / int(words[1])
        quota, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
        if quota is not None and period and quota > 0:
            yield quota / period


def _groups(root: Path, resource: str) -> Iterator[Path]:
    """Folders of this process's control groups for RESOURCE, the innermost first, in either version."""
    tree = root / "sys/fs/cgroup"
    for line in _lines(root / "proc/self/cgroup"):
        _, names, place = line.split(":", 2)
        if names and resource not in names.split(","):
            continue
        base = tree / resource if names else tree
        inner = Path(place.lstrip("/"))
        yield from (base / part for part in (inner, *inner.parents))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def _number(path: Path) -> int | None:
    words = _lines(path)
    return int(words[0]) if words and words[0].lstrip("-").isdigit() else None
