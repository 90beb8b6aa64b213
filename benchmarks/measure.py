"""Timing in turns, and the line that a benchmark prints.

The reference is what a careful person writes first: whole, plain, on as many threads. Equality comes before timing.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

REPEATS = 5
SHORTEST = 0.02  # seconds; what takes less is called several times a turn

Work = Callable[[], object]
Clock = Callable[[], float]
T = TypeVar("T")


class Skipped(Exception):
    """This machine lacks what the benchmark needs."""


class Unequal(Exception):
    """The fast way and the reference do not agree: there is nothing to time."""


@dataclass(frozen=True)
class Measured:
    """What a benchmark found; ratio is None where the target is an absolute value."""

    ratio: float | None
    met: bool
    value: float
    unit: str
    reference_seconds: float | None = None
    sizes: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Turn:
    """One side's call: seconds on the wall, and of this process's own work, which other processes do not lengthen."""

    wall: float
    own: float


@dataclass(frozen=True)
class Pair:
    """The turns of reference and product."""

    reference: tuple[Turn, ...]
    product: tuple[Turn, ...]

    @property
    def ratio(self) -> float:
        """Median of the pairwise ratios on the wall: how many times the reference takes as long."""
        return statistics.median(a.wall / b.wall for a, b in zip(self.reference, self.product, strict=True))

    @property
    def cpu_ratio(self) -> float:
        """The same of this process's own work: what a busy machine leaves comparable."""
        return statistics.median(a.own / b.own for a, b in zip(self.reference, self.product, strict=True))

    @property
    def seconds(self) -> float:
        """Median seconds of the product on the wall."""
        return statistics.median(turn.wall for turn in self.product)

    @property
    def reference_seconds(self) -> float:
        """Median seconds of the reference on the wall."""
        return statistics.median(turn.wall for turn in self.reference)

    def repeated(self, times: int) -> Pair:
        """As if the reference had done its work TIMES times."""
        return Pair(tuple(Turn(times * turn.wall, times * turn.own) for turn in self.reference), self.product)

    def against(self, least: float, sizes: dict[str, Any], **extra: Any) -> Measured:
        """The result where the product has to be at least LEAST times as fast."""
        extra = {"cpu_ratio": self.cpu_ratio, **extra}
        return Measured(self.ratio, self.ratio >= least, self.seconds, "s", self.reference_seconds, sizes, extra)


def in_turns(
    reference: Work, product: Work, repeats: int = REPEATS, wait: Work = lambda: None, own: Clock = time.process_time
) -> Pair:
    """Time both REPEATS times in turns, the first to go changing with every turn. WAIT ends what a device still does.

    OWN: the clock of their own work; `own_and_children` where they start processes.
    """
    calls = {work: _calls(work, wait) for work in (reference, product)}
    turns: dict[Work, list[Turn]] = {reference: [], product: []}
    for turn in range(repeats):
        for work in (reference, product) if turn % 2 == 0 else (product, reference):
            turns[work].append(_timed(work, calls[work], wait, own))
    return Pair(tuple(turns[reference]), tuple(turns[product]))


def _calls(work: Work, wait: Work) -> int:
    """Calls a turn, from a first one that also warms up."""
    return max(1, math.ceil(SHORTEST / max(_timed(work, 1, wait, time.process_time).own, 1e-6)))


def _timed(work: Work, calls: int, wait: Work, own: Clock) -> Turn:
    wait()
    wall, used = time.perf_counter(), own()
    for _ in range(calls):
        work()
    wait()
    return Turn((time.perf_counter() - wall) / calls, (own() - used) / calls)


def own_and_children() -> float:
    """Seconds of work of this process, and of all that it started and these did, ended or not. Raises Skipped without /proc."""
    if not Path("/proc/self/stat").exists():
        raise Skipped("the system does not tell what a process's children did")
    spent, parents = {}, {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it ended meanwhile
            fields = file.read_text().rpartition(")")[2].split()
            parents[int(file.parent.name)] = int(fields[1])
            spent[int(file.parent.name)] = sum(map(int, fields[11:15]))  # user and system, its own and of ended children
    ours = {os.getpid()}
    while more := {child for child, parent in parents.items() if parent in ours} - ours:
        ours |= more
    return sum(spent.get(process, 0) for process in ours) / os.sysconf("SC_CLK_TCK")


def require_equal(equal: bool, what: str) -> None:
    """Raise Unequal unless the two sides agree."""
    if not equal:
        raise Unequal(what)


def in_fresh_process(work: Callable[..., T], *arguments: Any) -> T:
    """What WORK, a function at the top of its module, returns in a new process of one thread."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=_one_thread) as pool:
        return pool.submit(work, *arguments).result()


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def peak_memory_mb() -> float:
    """The largest resident memory of this process since `reset_peak_memory`, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def reset_peak_memory() -> None:
    """Count the peak from the memory that is resident now. Raises Skipped where the system does not tell."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError as error:
        raise Skipped(f"the system does not reset a process's peak memory ({error})") from error


def cuda() -> Work:
    """The function that waits for the GPU. Raises Skipped without one."""
    import torch

    if not torch.cuda.is_available():
        raise Skipped("no CUDA GPU")
    return torch.cuda.synchronize
