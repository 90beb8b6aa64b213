"""What a training reads: batches in an order that the seed alone decides, from any step on, by any number of processes."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial, wraps
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from stages.core.errors import StageError

if TYPE_CHECKING:
    from stages.core.stage import Context


def seeded(*parts: int) -> torch.Generator:
    """A generator that depends on nothing but PARTS."""
    value = 0x9E3779B97F4A7C15
    for part in parts:
        value = ((value ^ part) * 0xBF58476D1CE4E5B9 + 0x94D049BB133111EB) & 0x7FFFFFFFFFFFFFFF
        value ^= value >> 29
    return torch.Generator().manual_seed(value)


def steps_per_epoch(items: int, batch: int) -> int:
    """Whole batches in an epoch; a set smaller than a batch gives one smaller batch."""
    return max(items // batch, 1)


class Views(Protocol):
    """A dataset indexed by (epoch, item), so that a crop depends on both and on nothing else."""

    def __len__(self) -> int: ...

    def __getitem__(self, key: tuple[int, int]) -> Any: ...

    def name(self, item: int) -> str: ...


def batches(views: Views, batch: int, steps: int, start: int, seed: int, workers: int) -> Iterator[Any]:
    """Batches of steps start..steps-1. Step s takes its place in the permutation of epoch s // steps_per_epoch.

    Raises StageError on an image that cannot be read.
    """
    keys = [_keys(step, len(views), batch, seed) for step in range(start, steps)]
    workers = min(workers, 4 if workers > 2 else 1) if workers else 0
    yield from Loader(
        _Guarded(views), default_collate, batch_sampler=keys, num_workers=workers, prefetch_factor=4 if workers else None
    )


class Loader(DataLoader[Any]):
    """A DataLoader that raises the StageError which an item of the dataset was handed over as (`fault_as_value`)."""

    def __init__(self, dataset: Dataset[Any], collate: Callable[[list[Any]], Any], **settings: Any) -> None:
        super().__init__(dataset, collate_fn=partial(_collate, collate), worker_init_fn=_follow_parent, **settings)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        return _Batches(super().__iter__())  # no generator: the workers start at once, from the generator's state now


class _Batches:
    """The batches of a loader; raises StageError on a fault of an item, RuntimeError where a worker is gone."""

    def __init__(self, found: Iterator[Any]) -> None:
        self._found = found

    def __iter__(self) -> _Batches:
        return self

    def __next__(self) -> Any:
        try:
            return _sound(next(self._found))
        except (ConnectionError, EOFError) as fault:  # torch says the same where it notices first
            raise RuntimeError("DataLoader worker exited unexpectedly") from fault


def _follow_parent(worker: int) -> None:
    """Let a loader process end with its parent and in silence: the parent tells of an interrupt.

    After a signal to the whole group the parent would report the deaths of loaders that the signal killed, but not of those
    that left; and a batch that the interrupted parent does not fetch any more breaks a connection, which is no news.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    sys.excepthook = _but_broken_connections


def _but_broken_connections(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not issubclass(kind, (ConnectionError, EOFError)):
        sys.__excepthook__(kind, error, trace)


def fault_as_value(get: Callable[..., Any]) -> Callable[..., Any]:
    """Return the StageError that GET raises: a loader process would turn it into another kind of error."""

    @wraps(get)
    def guarded(*key: Any) -> Any:
        try:
            return get(*key)
        except StageError as fault:
            return fault

    return guarded


class _Guarded(Dataset[Any]):
    """Views whose faults come as values."""

    def __init__(self, views: Views) -> None:
        self._views = views

    @fault_as_value
    def __getitem__(self, key: tuple[int, int]) -> Any:
        return self._views[key]


def _collate(collate: Callable[[list[Any]], Any], rows: list[Any]) -> Any:
    fault = next((row for row in rows if isinstance(row, StageError)), None)
    return collate(rows) if fault is None else fault


def _sound(batch: Any) -> Any:
    if isinstance(batch, StageError):
        raise batch
    return batch


@dataclass(frozen=True)
class Order:
    """The batches of a training of STEPS, in the order of SEED."""

    views: Views
    batch: int
    steps: int
    seed: int
    workers: int

    def __call__(self, start: int) -> Iterator[Any]:
        """The batches of step START and those after it."""
        return batches(self.views, self.batch, self.steps, start, self.seed, self.workers)

    def names(self, step: int) -> list[str]:
        """The images of the batch of STEP (0-based)."""
        return [self.views.name(item) for _, item in _keys(step, len(self.views), self.batch, self.seed)]


def order(views: Views, batch: int, steps: int, ctx: Context) -> Order:
    """What `fit` reads from: the batches of VIEWS in the order of the run's seed."""
    return Order(views, batch, steps, ctx.runtime.config.seed, ctx.runtime.workers)


def _keys(step: int, items: int, batch: int, seed: int) -> list[tuple[int, int]]:
    epoch, place = divmod(step, steps_per_epoch(items, batch))
    permutation = torch.randperm(items, generator=seeded(seed, epoch)).tolist()
    return [(epoch, item) for item in permutation[place * batch : (place + 1) * batch]]
