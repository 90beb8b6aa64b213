"""Cores and memory under control groups of either version, on trees of files as the system shows them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stages.core import limits, runtime

MB = 1 << 20


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in {"proc/meminfo": "MemTotal: 9 kB\nMemAvailable: 8388608 kB\n", **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_without_limits_the_machine_decides(tmp_path: Path) -> None:
    assert limits.free_memory(tree(tmp_path, {})) == 8 << 30
    assert limits.cores(tmp_path) == limits.cores()


def test_the_tightest_group_of_version_2_decides(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/pod"
    files = {
        "proc/self/cgroup": "0::/pod/inner\n",
        f"{group}/memory.max": str(1000 * MB),
        f"{group}/memory.current": str(700 * MB),
        f"{group}/memory.stat": f"anon 5\ninactive_file {100 * MB}\n",
        f"{group}/inner/memory.max": "max\n",
        f"{group}/inner/memory.current": str(700 * MB),
        f"{group}/cpu.max": "50000 100000\n",
        f"{group}/inner/cpu.max": "max 100000\n",
    }
    assert limits.free_memory(tree(tmp_path, files)) == 400 * MB  # 1000 less 700, of which 100 can be given back
    assert limits.cores(tmp_path) == 1


def test_version_1_has_a_tree_for_each_resource(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "4:memory:/job\n2:cpu,cpuacct:/\n",
        "sys/fs/cgroup/memory/job/memory.limit_in_bytes": str(500 * MB),
        "sys/fs/cgroup/memory/job/memory.usage_in_bytes": str(520 * MB),
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": str(900 * MB),
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
        "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
    }
    assert limits.free_memory(tree(tmp_path, files)) == 0
    assert limits.cores(tmp_path) == limits.cores()


def test_a_system_that_tells_nothing_sets_no_limit(tmp_path: Path) -> None:
    assert limits.free_memory(tmp_path) is None


@pytest.mark.parametrize(("free", "asked", "wanted"), [(None, -1, 8), (100 * MB, -1, 1), (5000 * MB, -1, 4), (100 * MB, 6, 6)])
def test_workers_are_as_many_as_fit(monkeypatch: pytest.MonkeyPatch, free: int | None, asked: int, wanted: int) -> None:
    monkeypatch.setattr(runtime, "free_memory", lambda: free)
    monkeypatch.setattr(runtime, "cores", lambda: 8)
    settings: Any = SimpleNamespace(workers=asked)
    assert runtime.Runtime(settings).workers_of(1000 * MB) == wanted  # four fifths of what is free
