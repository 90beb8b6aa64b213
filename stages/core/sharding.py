"""Per-image stages: which images this process works on, which of them are still to do, and a few to look at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from stages.core import interrupt

if TYPE_CHECKING:
    from stages.core.stage import Context

T = TypeVar("T")


def spread(items: Sequence[T], count: int) -> Sequence[T]:
    """COUNT of the items at equal steps, from the first on; all where there are no more."""
    return items[:: max(len(items) // max(count, 1), 1)][:count]


def pending(items: Sequence[T], target: Callable[[T], Path]) -> list[T]:
    """The items whose output is not there yet: outputs appear by rename, so present means whole."""
    return [item for item in items if not target(item).exists()]


def first_missing(paths: Sequence[Path]) -> Path:
    """Of several outputs of an item, in the order in which they are written, the first that is not there; else the last.

    A single lost one then makes the item be done again.
    """
    return next((path for path in paths if not path.exists()), paths[-1])


def each(items: Sequence[T], target: Callable[[T], Path], work: Callable[[T], object], label: str, ctx: Context) -> None:
    """Do WORK on every item of this process's share whose output is missing, with progress."""
    in_batches(items, target, lambda batch: work(batch[0]), 1, label, ctx)


def in_batches(
    items: Sequence[T], target: Callable[[T], Path], work: Callable[[Sequence[T]], object], size: int, label: str, ctx: Context
) -> None:
    """The same, WORK taking up to SIZE items at a time."""
    fabric = ctx.runtime.fabric
    share = items[fabric.global_rank :: fabric.world_size]
    todo = pending(share, target)
    with ctx.track(label, len(share), len(share) - len(todo)) as meter:
        for start in range(0, len(todo), size):
            interrupt.check()
            batch = todo[start : start + size]
            with interrupt.finishing():
                work(batch)
            meter.advance(len(batch))
    fabric.barrier()
