"""What happens around each step of mmengine's loop: learning rate, progress, kept state."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook

from stages.core import interrupt
from stages.core.finite import Finite, diverged, spoilt
from stages.formulas.segmentation import poly_factor
from stages.nets import norms
from stages.nets.mmseg import state

OnStep = Callable[[int, Mapping[str, torch.Tensor], float], None]  # step, losses, learning-rate factor


class PolyHook(Hook):
    """Sets every group's rate before its step, from the step alone; resuming needs no scheduler state."""

    def __init__(self, steps: int, power: float, every: int, accumulate: int) -> None:
        self.steps, self.power, self.every, self.accumulate = steps, power, every, accumulate

    def factor(self, iteration: int) -> float:
        """The factor in force at a pass of the loop, of which an optimizer step has `accumulate`."""
        return poly_factor(iteration // self.accumulate, self.steps, self.power, self.every)

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        for group in runner.optim_wrapper.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * self.factor(batch_idx)


class FiniteHook(Hook):
    """Stops a training whose loss is not finite: on a CPU at once, on a GPU before the losses are shown or the state kept."""

    priority = "HIGH"

    def __init__(self, names: Callable[[int], Sequence[str]], accumulate: int) -> None:
        self.finite, self.names, self.accumulate = Finite(), names, accumulate

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self.finite.add(batch_idx, {"loss": outputs["loss"]})
        if outputs["loss"].device.type == "cpu":
            self.require()

    def require(self) -> None:
        """Raise StageError, which names the images of the pass, where a loss was not finite."""
        found = self.finite.first
        if found is not None:
            self._stop("The segmentation loss is not finite", found.step)

    def require_sound(self, net: torch.nn.Module, passed: int) -> None:
        """The same for the parameters too, before they are kept after the pass number PASSED."""
        self.require()
        what = spoilt(net)
        if what is not None:
            self._stop(what, passed)

    def _stop(self, what: str, passed: int) -> NoReturn:
        todo = "Lower segment_train.lr, or set segment_train.loss=balanced where it is plain, and run again"
        raise diverged(what, passed // self.accumulate + 1, self.names(passed), todo)


class ProgressHook(Hook):
    """Hands the losses on every few steps; only then are they read from the device."""

    def __init__(self, on_step: OnStep, poly: PolyHook, log_every: int, finite: FiniteHook) -> None:
        self.on_step, self.poly, self.log_every, self.finite = on_step, poly, log_every, finite

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        passes = batch_idx + 1
        step, rest = divmod(passes, self.poly.accumulate)
        if rest or (step % self.log_every and passes != runner.max_iters):
            return
        self.finite.require()
        losses = {_short(name): value.detach() for name, value in outputs.items() if "loss" in name}
        self.on_step(step, losses, self.poly.factor(batch_idx))


def _short(name: str) -> str:
    """`decode.loss_ce`, as mmsegmentation's heads name their losses, → `loss_decode`; of another term its name is kept."""
    head, _, term = name.rpartition(".loss_")
    return f"loss_{head}{'' if term == 'ce' else f'_{term}'}" if head else name


class FreezeHook(Hook):
    """Keeps batch-norm of the trunk at its stored statistics, which the loop's `train()` lets go before every step."""

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        norms.hold(bare(runner.model).get_submodule("backbone"))


class StateHook(Hook):
    """Keeps the state every SECONDS, at the end and before an interrupt, after whole optimizer steps; one process writes."""

    priority = "VERY_LOW"

    def __init__(self, folder: Path, seconds: float, accumulate: int, finite: FiniteHook) -> None:
        self.folder, self.seconds, self.accumulate, self.finite = folder, seconds, accumulate, finite
        self.written = time.monotonic()

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        step, rest = divmod(batch_idx + 1, self.accumulate)
        due = batch_idx + 1 == runner.max_iters or time.monotonic() - self.written >= self.seconds or interrupt.asked()
        if rest or not due or not is_main_process():
            return
        self.finite.require_sound(bare(runner.model), batch_idx)
        state.keep(self.folder, bare(runner.model), runner.optim_wrapper, step)
        self.written = time.monotonic()


def bare(model: Any) -> torch.nn.Module:
    """The network inside a distributed wrapper."""
    return model.module if hasattr(model, "module") else model
