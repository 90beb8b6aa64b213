"""The one training loop of our own networks: explicit steps, named losses, resumable to the same bits.

All randomness is a function of (seed, step) or (seed, epoch, image), never of what ran before; so the state to keep is
the network, the optimizer and the step, and the number of loader processes changes nothing.
"""

from __future__ import annotations

import io
import os
import pickle
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial, wraps
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, default_collate

from stages.core import interrupt
from stages.core.curves import Curves, diverged
from stages.core.errors import StageError
from stages.core.files import write_atomic

if TYPE_CHECKING:
    from stages.core.stage import Context

SAVE_SECONDS = 30.0  # what an interruption costs at most


@dataclass(frozen=True)
class Plan:
    """How long, how fast: total steps, the learning-rate factor at each, and how often to log."""

    steps: int
    lr_factor: Callable[[int], float]
    log_every: int = 10


def poly(steps: int, power: float, floor: float = 0.0) -> Callable[[int], float]:
    """Learning-rate factor (1 - step/steps)^power; FLOOR shortens the decay so that it ends at that factor."""
    reach = steps if floor <= 0 else steps / (1 - floor ** (1 / power))
    return lambda step: (1 - step / reach) ** power


def sgd(
    net: nn.Module,
    heads: Sequence[nn.Module],
    lr: float,
    head_factor: float,
    momentum: float,
    weight_decay: float,
    without: Callable[[str], bool] = lambda name: False,
) -> torch.optim.SGD:
    """SGD in two groups: the trunk, but for parameters whose name WITHOUT picks, and HEADS at their own rate."""
    own = [p for head in heads for p in head.parameters()]
    of_heads = {id(p) for p in own}
    trunk = [p for name, p in net.named_parameters() if id(p) not in of_heads and not without(name)]
    groups = [{"params": trunk, "lr": lr}, {"params": own, "lr": lr * head_factor}]
    return torch.optim.SGD(groups, lr=lr, momentum=momentum, weight_decay=weight_decay)


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


def batches(views: Views, batch: int, steps: int, start: int, seed: int, workers: int) -> Iterator[Any]:
    """Batches of steps start..steps-1. Step s takes its place in the permutation of epoch s // steps_per_epoch.

    Raises StageError on an image that cannot be read.
    """
    order = [_keys(step, len(views), batch, seed) for step in range(start, steps)]
    workers = min(workers, 4 if workers > 2 else 1) if workers else 0
    yield from Loader(
        _Guarded(views), default_collate, batch_sampler=order, num_workers=workers, prefetch_factor=4 if workers else None
    )


class Loader(DataLoader[Any]):
    """A DataLoader that raises the StageError which an item of the dataset was handed over as (`fault_as_value`)."""

    def __init__(self, dataset: Dataset[Any], collate: Callable[[list[Any]], Any], **settings: Any) -> None:
        super().__init__(dataset, collate_fn=partial(_collate, collate), worker_init_fn=_follow_parent, **settings)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        return map(_sound, super().__iter__())  # no generator: the workers start at once, from the generator's state now


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


def loader(views: Views, batch: int, steps: int, ctx: Context) -> Callable[[int], Iterator[Any]]:
    """What `fit` reads from: the batches of a training of STEPS from any step on, in the order of the run's seed."""
    return lambda start: batches(views, batch, steps, start, ctx.runtime.config.seed, ctx.runtime.workers)


def _keys(step: int, items: int, batch: int, seed: int) -> list[tuple[int, int]]:
    epoch, place = divmod(step, steps_per_epoch(items, batch))
    permutation = torch.randperm(items, generator=seeded(seed, epoch)).tolist()
    return [(epoch, item) for item in permutation[place * batch : (place + 1) * batch]]


def fit(
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    plan: Plan,
    loader: Callable[[int], Iterable[Any]],
    step: Callable[[Any, int], dict[str, Tensor]],
    ctx: Context,
) -> None:
    """Train NET for plan.steps, from the kept state if there is one.

    loader(start) yields the batches from step START on; step(batch, index) returns named scalar losses, "total" among
    them. Curves go to curves.jsonl, the state to state.pth. Raises StageError on a loss that is not finite.
    """
    start = _resume(net, optimizer, ctx)
    rates = [group["lr"] for group in optimizer.param_groups] if start == 0 else [g["initial_lr"] for g in optimizer.param_groups]
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["initial_lr"] = rate
    saved = time.monotonic()
    with ctx.track("training", plan.steps, start) as meter, Curves(ctx.out, start) as curves:
        for index, batch in enumerate(loader(start), start):
            interrupt.check()
            factor = plan.lr_factor(index)
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * factor
            losses = step(batch, index)
            optimizer.zero_grad(set_to_none=True)
            ctx.runtime.fabric.backward(losses["total"])
            ctx.runtime.fabric.strategy.optimizer_step(optimizer)  # takes float16's loss scale out first
            last = index + 1 == plan.steps
            if last or (index + 1) % plan.log_every == 0:
                values = curves.add(index + 1, factor, losses)
                meter.advance(index + 1 - curves.shown, **values)
                curves.shown = index + 1
            if last or time.monotonic() - saved > SAVE_SECONDS:
                _keep(net, optimizer, index + 1, ctx)
                saved = time.monotonic()


def _keep(net: nn.Module, optimizer: torch.optim.Optimizer, step: int, ctx: Context) -> None:
    """Write the state, unless the last step spoilt the network: the state before it then stays."""
    spoilt = next((name for name, p in net.named_parameters() if not bool(p.isfinite().all())), None)
    if spoilt is not None:
        raise diverged(f"Parameter '{spoilt}' is not finite", step)
    precision = ctx.runtime.fabric.strategy.precision.state_dict()
    state = {"net": net.state_dict(), "optimizer": optimizer.state_dict(), "precision": precision, "step": step}
    if ctx.runtime.fabric.is_global_zero:
        save_tensors(ctx.out / "state.pth", state)


def save_tensors(path: Path, state: Any) -> None:
    """`torch.save`, whole or not at all. Written by way of memory: a full disk is then an OSError, as everywhere else."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomic(path, lambda temporary: temporary.write_bytes(buffer.getbuffer()))


def load_tensors(path: Path, device: torch.device | str, **options: Any) -> Any:
    """What `save_tensors` kept, tensors and plain values alone. Raises StageError on anything else, which is not executed."""
    try:
        return torch.load(path, map_location=device, weights_only=True, **options)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, TypeError) as error:
        reason = (str(error).splitlines() or ["damaged"])[0][:160]
        raise StageError(f"Cannot read {path}", reason, "Delete it: the training then begins anew") from error


def _resume(net: nn.Module, optimizer: torch.optim.Optimizer, ctx: Context) -> int:
    """Load the kept state, if any, and return the step to go on from."""
    path = ctx.out / "state.pth"
    if not path.exists():
        return 0
    state = load_tensors(path, ctx.runtime.device)
    net.load_state_dict(state["net"])
    optimizer.load_state_dict(state["optimizer"])
    ctx.runtime.fabric.strategy.precision.load_state_dict(state.get("precision", {}))
    return state["step"]
