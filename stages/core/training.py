"""The one training loop of our own networks: explicit steps, named losses, resumable to the same bits.

All randomness is a function of (seed, step) or (seed, epoch, image), never of what ran before; so the state to keep is
the network, the optimizer and the step, and the number of loader processes changes nothing.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from stages.core import interrupt, reading
from stages.core.curves import Curves
from stages.core.files import write_atomic
from stages.core.finite import Finite, diverged, spoilt
from stages.core.manifest import STATE

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


class Source(Protocol):
    """Batches from any step on, and the names of the images in each (`loading.Order`)."""

    def __call__(self, start: int) -> Iterable[Any]: ...

    def names(self, step: int) -> Sequence[str]: ...


def fit(
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    plan: Plan,
    source: Source,
    step: Callable[[Any, int], dict[str, Tensor]],
    ctx: Context,
) -> None:
    """Train NET for plan.steps, from the kept state if there is one.

    source(start) yields the batches from step START on; step(batch, index) returns named scalar losses, "total" among
    them. Curves go to curves.jsonl, the state to STATE. Raises StageError on a loss that is not finite. An interrupt
    waits for the end of its step, whose state is kept.
    """
    loop = _Loop(net, optimizer, plan, source, step, ctx)
    saved = time.monotonic()
    with ctx.track("training", plan.steps, loop.done) as meter, Curves(ctx.out, loop.done) as curves:
        try:
            for batch in source(loop.done):
                interrupt.check()
                with interrupt.finishing():
                    losses = loop.take(batch)
                    last = loop.done == plan.steps
                    if last or loop.done % plan.log_every == 0:
                        loop.require_finite()
                        values = curves.add(loop.done, loop.factor, losses)
                        meter.advance(loop.done - curves.shown, **values)
                        curves.shown = loop.done
                    if last or time.monotonic() - saved > SAVE_SECONDS:
                        loop.keep()
                        saved = time.monotonic()
        except KeyboardInterrupt:
            if loop.whole and loop.done:
                loop.keep()
            raise


@dataclass
class _Loop:
    """Network and optimizer after `done` steps; `whole` when no step is half done."""

    net: nn.Module
    optimizer: torch.optim.Optimizer
    plan: Plan
    source: Source
    step: Callable[[Any, int], dict[str, Tensor]]
    ctx: Context

    def __post_init__(self) -> None:
        self.done, self.whole, self.factor = _resume(self.net, self.optimizer, self.ctx), True, 1.0
        self._finite = Finite()
        for group in self.optimizer.param_groups:
            group["initial_lr"] = group["initial_lr"] if self.done else group["lr"]

    def take(self, batch: Any) -> dict[str, Tensor]:
        """One step; returns its losses. On a CPU a loss that is not finite is noticed at once: nothing has to be waited for."""
        self.whole = False
        self.factor = self.plan.lr_factor(self.done)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * self.factor
        losses = self.step(batch, self.done)
        self._finite.add(self.done, losses)
        if losses["total"].device.type == "cpu":
            self.require_finite()
        fabric = self.ctx.runtime.fabric
        self.optimizer.zero_grad(set_to_none=True)
        fabric.backward(losses["total"])
        fabric.strategy.optimizer_step(self.optimizer)  # takes float16's loss scale out first
        self.done, self.whole = self.done + 1, True
        return losses

    def require_finite(self) -> None:
        """Raise StageError, which names the batch, where a loss was not finite."""
        found = self._finite.first
        if found is not None:
            raise diverged(f"Loss '{found.name}' is not finite", found.step + 1, self.source.names(found.step))

    def keep(self) -> None:
        """Write the state, unless the last step spoilt the network: the state before it then stays."""
        self.require_finite()
        what = spoilt(self.net)
        if what is not None:
            raise diverged(what, self.done, self.source.names(self.done - 1))
        fabric = self.ctx.runtime.fabric
        precision = fabric.strategy.precision.state_dict()
        state = {
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "precision": precision,
            "step": self.done,
        }
        if fabric.is_global_zero:
            save_tensors(self.ctx.out / STATE, state)


def save_tensors(path: Path, state: Any) -> None:
    """`torch.save`, whole or not at all. Written by way of memory: a full disk is then an OSError, as everywhere else."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomic(path, lambda temporary: temporary.write_bytes(buffer.getbuffer()))


def load_tensors(path: Path, device: torch.device | str, **options: Any) -> Any:
    """What `save_tensors` kept, tensors and plain values alone. Raises StageError on anything else, which is not executed."""
    with reading.told(f"Cannot read {path}", "Unless the disk is at fault, delete it: the training then begins anew"):
        return torch.load(path, map_location=device, weights_only=True, **options)


def _resume(net: nn.Module, optimizer: torch.optim.Optimizer, ctx: Context) -> int:
    """Load the kept state, if any, and return the step to go on from."""
    path = ctx.out / STATE
    if not path.exists():
        return 0
    state = load_tensors(path, ctx.runtime.device)
    net.load_state_dict(state["net"])
    optimizer.load_state_dict(state["optimizer"])
    ctx.runtime.fabric.strategy.precision.load_state_dict(state.get("precision", {}))
    return state["step"]
