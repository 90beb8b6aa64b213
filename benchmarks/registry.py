"""Every benchmark by its id: where it lies, and the target that it is held to."""

from __future__ import annotations

import importlib
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.measure import REPEATS, Measured, Skipped, Unequal


@dataclass(frozen=True)
class Benchmark:
    """One row: the function `module:name` without arguments, and its target in words."""

    place: str
    target: str

    def function(self) -> Callable[[], Measured]:
        """Import the module and return the function."""
        module, name = self.place.split(":")
        return getattr(importlib.import_module(f"benchmarks.{module}"), name)


TABLE: dict[str, Benchmark] = {
    "rw_small": Benchmark("walk:small", "≥ 400x the dense walk, rel ≤ 1e-4, 0 label flips"),
    "rw_voc": Benchmark("walk:voc", "≥ 4,000x one dense squaring times eight, rel ≤ 1e-4, 0 label flips"),
    "rw_mem": Benchmark("walk:memory", "≤ 32 MB more than before"),
    "rw_scale": Benchmark("walk:scale", "seconds grow with the pixels to the power ≤ 1.1"),
    "rw_large": Benchmark("walk:large", "2048 x 2048: ≤ 60 s, ≤ 1 GB the whole process"),
    "rw_gpu": Benchmark("walk:gpu", "≥ 100x the dense walk in float32"),
    "irn_paths": Benchmark("affinity:paths", "≥ 3x gathering every path, ≤ 1/8 of its memory, rel ≤ 1e-5"),
    "crf_pair": Benchmark("crf:pair", "≥ 1.2x two lattices, bit-equal"),
    "crf_procs": Benchmark("crf:several_processes", "≥ 0.9 n with n processes, ≤ 0.6 GB a worker"),
    "thr_search": Benchmark("threshold:search", "≥ 2x full forward passes on a CPU, ≥ 8x on a GPU, same argmin"),
    "thr_overhead": Benchmark("threshold:overhead", "≤ 1.9x plain inference with 20 masks, ≤ 1.3x with 7"),
    "seed_post": Benchmark("seed:post", "≥ 6x upsampling every class, bit-equal"),
    "seed_store": Benchmark("seed:store", "≤ 1/20 of the bytes of full-size floats"),
    "seed_infer": Benchmark("seed:infer", "GPU: ≥ 4x the throughput of float32, one view at a time"),
    "bas_step": Benchmark("training:bas_step", "≥ 1.05x a step that copies F2, equal losses"),
    "eval_conf": Benchmark("scoring:confusion", "≥ 10x a loop over classes, equal counts"),
    "eval_sweep": Benchmark("scoring:sweep", "≥ 20x one confusion matrix a threshold, equal counts"),
    "train_step_gpu": Benchmark("training:segment_step_gpu", "≥ 4x float32 eager, ≥ 25 % of the bfloat16 peak"),
    "loader_overlap": Benchmark("training:loader_overlap", "GPU: ≥ 0.9 of the throughput on tensors that lie ready"),
    "cli_help": Benchmark("command:help_text", "≤ 0.2 s, torch not imported"),
    "cli_status": Benchmark("command:status", "≤ 0.2 s, torch not imported"),
    "rerun_cached": Benchmark("command:rerun", "≤ 1 s for a finished run of 10,582 images"),
    "data_check": Benchmark("data:check", "≥ 0.9 of the speed of processes that only decode 10,000 files as it does"),
    "resume": Benchmark("interruption:resume", "≤ 0.55 of the full time after a kill half way, identical output"),
}


def line(identity: str) -> dict[str, Any]:
    """Run the benchmark IDENTITY and return its line: figures, target, status met, short or skipped, and the machine."""
    row = TABLE[identity]
    head: dict[str, Any] = {"id": identity, "ratio": None, "value": None, "unit": None, "reference_seconds": None}
    tail = {"repeats": REPEATS, "machine": machine(), "versions": versions(), "load": round(os.getloadavg()[0], 2)}
    try:
        found = row.function()()
    except Skipped as reason:
        return {**head, "target": row.target, "status": "skipped", "why": str(reason), **tail}
    except Unequal as reason:
        return {**head, "target": row.target, "status": "short", "why": f"not equal: {reason}", **tail}
    figures = {
        "ratio": _rounded(found.ratio),
        "value": _rounded(found.value),
        "unit": found.unit,
        "reference_seconds": _rounded(found.reference_seconds),
    }
    status = "met" if found.met else "short"
    extra = {key: _rounded(value) for key, value in found.extra.items()}
    return {**head, **figures, "target": row.target, "status": status, "sizes": found.sizes, **extra, **tail}


def _rounded(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value


@cache
def machine() -> dict[str, Any]:
    """Processor, cores that this process may use, threads of arithmetic, GPU."""
    import torch

    from stages.core.limits import cores

    names = [row.split(":", 1)[1].strip() for row in _cpuinfo() if row.startswith("model name")]
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"cpu": names[0] if names else platform.processor(), "cores": cores(), "threads": torch.get_num_threads(), "gpu": gpu}


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


@cache
def versions() -> dict[str, str]:
    """Versions of Python and of the packages that do the work."""
    packages = ("torch", "torchvision", "numpy", "scipy")
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in packages}}
