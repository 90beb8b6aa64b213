"""Training a segmentation network by mmengine's Runner: quiet, on the device it is told, resumable to the same bits."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
import torch.multiprocessing as multiprocessing
from mmengine.dist import barrier, is_main_process
from mmengine.logging import MMLogger
from mmengine.model import MMDistributedDataParallel
from mmengine.runner import IterBasedTrainLoop, Runner
from mmseg.registry import LOOPS
from torch import nn

from stages.core import interrupt
from stages.core.errors import StageError
from stages.core.files import digest
from stages.core.runtime import Placement
from stages.nets.mmseg import hooks, network, standalone, state
from stages.nets.mmseg.data import Crops, PairDataset, Reader, StepSampler, loader
from stages.nets.mmseg.optim import Rates, wrap

CHECKPOINT = "network.pth"
_RUNS = itertools.count()  # mmengine keeps every logger by name; two trainings in a process need two names


@dataclass(frozen=True)
class Settings:
    """One training: the network and its recipe; the defaults are the public one from ImageNet weights."""

    network: network.Network
    steps: int = 30_000
    batch: int = 10
    accumulate: int = 1
    crop_scales: tuple[float, ...] = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)
    rates: Rates = field(default_factory=Rates)
    power: float = 0.9
    lr_every: int = 10
    seed: int = 0
    workers: int = 0
    precision: str = "32-true"
    save_seconds: float = 30.0
    log_every: int = 10


@LOOPS.register_module()
class StepLoop(IterBasedTrainLoop):
    """mmengine's loop, but its loader already starts at the step to go on from, so nothing is replayed.

    A step has ACCUMULATE passes; an interrupt waits for its end.
    """

    def __init__(self, *given: Any, accumulate: int, **named: Any) -> None:
        super().__init__(*given, **named)
        self._accumulate = accumulate

    def start_at(self, iteration: int) -> None:
        """Count from ITERATION on."""
        self._iter = iteration

    def run(self) -> nn.Module:  # type: ignore[override]
        self.runner.call_hook("before_train")
        self.runner.call_hook("before_train_epoch")
        while self._iter < self._max_iters:
            interrupt.check()
            with interrupt.finishing():
                self._step()
        self.runner.call_hook("after_train_epoch")
        self.runner.call_hook("after_train")
        return self.runner.model

    def _step(self) -> None:
        """The passes of one step of the optimizer."""
        for _ in range(self._accumulate):
            self.runner.model.train()
            self.run_iter(next(self.dataloader_iterator))


class QuietRunner(Runner):
    """A Runner that prints nothing, writes one log file, keeps to its device and begins as BEGIN says."""

    def __init__(self, place: Placement, begin: Callable[[QuietRunner], None], **kwargs: Any) -> None:
        self.place, self.begin = place, begin
        super().__init__(**kwargs)

    def setup_env(self, env_cfg: dict[str, Any]) -> None:
        """mmengine's, but how the program starts processes stays; one log folder for all resumes."""
        method = multiprocessing.get_start_method(allow_none=True)
        super().setup_env({**env_cfg, "mp_cfg": {"mp_start_method": method or "fork"}})
        multiprocessing.set_start_method(method, force=True)
        self._timestamp = "mmengine"

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:
        logger = super().build_logger(*args, **kwargs)
        logger.handlers = [h for h in logger.handlers if hasattr(h, "baseFilename")]
        return logger

    def dump_config(self) -> None:
        """The checkpoint holds the description; mmengine would write an empty configuration."""

    def wrap_model(self, model_wrapper_cfg: Any, model: nn.Module) -> nn.Module:  # type: ignore[override]
        model = model.to(self.place.device)
        if not self.distributed:
            return model
        return MMDistributedDataParallel(module=model, device_ids=self.place.ids, broadcast_buffers=False)

    def load_or_resume(self) -> None:
        """Called once everything is built, has its random weights, and the loader runs: the last moment before the first step."""
        self.begin(self)

    def go_on(self, kept: dict[str, Any], accumulate: int) -> None:
        """Take up the KEPT state, of a training whose steps have ACCUMULATE passes."""
        hooks.bare(self.model).load_state_dict(kept["net"])
        self.optim_wrapper.load_state_dict(kept["optimizer"])  # type: ignore[union-attr]
        self.train_loop.start_at(kept["step"] * accumulate)  # type: ignore[attr-defined]
        state.restore_generators(kept["generators"])
        self.logger.info(f"resumed after {kept['step']} steps")


def train(
    settings: Settings,
    items: int,
    read: Reader,
    work_dir: Path,
    place: Placement,
    on_step: hooks.OnStep,
    initialise: Callable[[network.Segmentor], object] = lambda net: None,
    weights: Sequence[float] | None = None,
    name: Callable[[int], str] = str,
) -> Path:
    """Train on ITEMS pairs, where READ(i) gives image (H,W,3) uint8 RGB and mask (H,W) uint8 (255 = void).

    INITIALISE fills a new network with its first weights; WEIGHTS say how often each pair is seen, NAME what it is called.
    Goes on from the state in WORK_DIR if there is one. Returns the path of the checkpoint, beside which lies a config for
    mmsegmentation's own tools. Raises StageError on impossible settings and divergence.
    """
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    _check(settings, items, world)
    work_dir.mkdir(parents=True, exist_ok=True)
    kept = state.read(work_dir)
    torch.manual_seed(settings.seed)
    spec = network.described(settings.network)
    net = network.make(spec)

    def begin(runner: QuietRunner) -> None:
        if kept is None:
            initialise(cast(network.Segmentor, hooks.bare(runner.model)))
        else:
            runner.go_on(kept, settings.accumulate)

    dataset = PairDataset(
        items,
        read,
        Crops(settings.network.crop, settings.crop_scales),
        settings.seed,
        settings.network.classes,
    )
    start = kept["step"] * settings.accumulate if kept else 0
    passes = settings.steps * settings.accumulate
    sampler = StepSampler(items, settings.batch // settings.accumulate, start, passes, settings.seed, rank, world, weights)
    finite = hooks.FiniteHook(lambda step: [name(key[1]) for key in sampler.of(step)], settings.accumulate)
    runner = _runner(settings, net, dataset, sampler, begin, work_dir, place, on_step, finite)
    with _too_few_images():
        runner.train()
    checkpoint = work_dir / CHECKPOINT
    if is_main_process():
        network.save(checkpoint, hooks.bare(runner.model), spec, {"steps": settings.steps})
        standalone.write(work_dir / standalone.NAME, spec)
    barrier()
    return checkpoint


@contextmanager
def _too_few_images() -> Iterator[None]:
    """Name what to change where a head pools to one value, of which batch-norm needs several images."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise StageError(
            "The network cannot learn from one image at a time",
            "its batch-norm sees a single value a channel",
            "Lower segment_train.accumulate or raise batch",
        ) from error


def _check(settings: Settings, items: int, world: int) -> None:
    parts = settings.accumulate * world
    if items == 0:
        raise StageError(
            "Cannot train the segmentation network",
            "no pair of image and mask",
            "Run the stages before this one",
        )
    if settings.batch % parts:
        raise StageError(
            f"Batch {settings.batch} cannot be split",
            f"{settings.accumulate} accumulated passes on {world} processes",
            f"Set segment_train.batch to a multiple of {parts}",
        )


def _runner(
    settings: Settings,
    net: network.Segmentor,
    dataset: PairDataset,
    sampler: StepSampler,
    begin: Callable[[QuietRunner], None],
    work_dir: Path,
    place: Placement,
    on_step: hooks.OnStep,
    finite: hooks.FiniteHook,
) -> QuietRunner:
    """The Runner with our loop, optimizer and hooks, and none of mmengine's defaults that print or write."""
    poly = hooks.PolyHook(settings.steps, settings.power, settings.lr_every, settings.accumulate)
    net.to(place.device)
    silent = ("runtime_info", "timer", "sampler_seed", "logger", "param_scheduler", "checkpoint")
    return QuietRunner(
        place,
        begin,
        model=net,
        work_dir=str(work_dir),
        train_dataloader=loader(dataset, sampler, settings.workers, place.pin_memory),
        train_cfg={
            "type": "StepLoop",
            "max_iters": settings.steps * settings.accumulate,
            "accumulate": settings.accumulate,
        },
        optim_wrapper=wrap(net, settings.rates, place, settings.precision, settings.accumulate),
        default_hooks=dict.fromkeys(silent),
        custom_hooks=[
            *([hooks.FreezeHook()] if settings.network.freeze_bn else []),
            poly,
            finite,
            hooks.ProgressHook(on_step, poly, settings.log_every, finite),
            hooks.StateHook(work_dir, settings.save_seconds, settings.accumulate, finite),
        ],
        default_scope="mmseg",
        launcher="pytorch" if sampler.world > 1 else "none",
        env_cfg={"cudnn_benchmark": place.tune, "dist_cfg": {"backend": place.backend}},
        randomness={"seed": settings.seed},
        experiment_name=f"segmentation_{os.getpid()}_{next(_RUNS)}_{digest(str(work_dir))}",
    )
