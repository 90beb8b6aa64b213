"""One training of a segmentation network by mmengine's Runner, from its settings to its checkpoint."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import torch
from mmengine.dist import barrier, is_main_process
from mmengine.hooks import Hook

from stages.core.errors import StageError
from stages.core.files import digest
from stages.core.loading import Loader
from stages.core.runtime import Placement
from stages.nets.mmseg import hooks, network, standalone, state
from stages.nets.mmseg.data import Crops, Material, PairDataset, StepSampler, loader
from stages.nets.mmseg.engine import QuietRunner
from stages.nets.mmseg.optim import Rates, wrap

CHECKPOINT = "network.pth"
UNUSED = ("runtime_info", "timer", "sampler_seed", "logger", "param_scheduler", "checkpoint")  # of mmengine's own hooks
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


def train(
    settings: Settings,
    material: Material,
    work_dir: Path,
    place: Placement,
    on_step: hooks.OnStep,
    initialise: Callable[[network.Segmentor], object] = lambda net: None,
) -> Path:
    """Train on MATERIAL, from the state in WORK_DIR on if there is one; INITIALISE fills a new network with its first weights.

    Returns the path of the checkpoint, beside which lies a config for mmsegmentation's own tools. Raises StageError on
    impossible settings and divergence.
    """
    _check(settings, material.count)
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

    order = _order(settings, material, kept["step"] if kept else 0)
    around = _hooks(settings, lambda step: [material.name(key[1]) for key in order.of(step)], work_dir, on_step)
    crops = Crops(settings.network.crop, settings.crop_scales)
    pairs = PairDataset(material, crops, settings.seed, settings.network.classes)
    batches = loader(pairs, order, settings.workers, place.pin_memory)
    net.to(place.device)
    runner = _runner(settings, net, batches, around, begin, work_dir, place)
    with _too_few_images():
        runner.train()
    if is_main_process():
        network.save(work_dir / CHECKPOINT, hooks.bare(runner.model), spec, {"steps": settings.steps})
        standalone.write(work_dir / standalone.NAME, spec)
    barrier()
    return work_dir / CHECKPOINT


def _check(settings: Settings, pairs: int) -> None:
    """Raise StageError where there is nothing to learn from, or a batch cannot be split as it would have to be."""
    if pairs == 0:
        raise StageError("Cannot train the segmentation network", "no pair of image and mask", "Run the stages before this one")
    parts = settings.accumulate * _place_among_processes()[1]
    if settings.batch % parts:
        raise StageError(
            f"Batch {settings.batch} cannot be split",
            f"{settings.accumulate} accumulated passes on {parts // settings.accumulate} processes",
            f"Set segment_train.batch to a multiple of {parts}",
        )


def _place_among_processes() -> tuple[int, int]:
    """Rank of this process and number of all, as a launcher of several says."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def _order(settings: Settings, material: Material, done: int) -> StepSampler:
    """The pairs of every pass of the loop, after DONE steps, each of `accumulate` passes."""
    first, end = done * settings.accumulate, settings.steps * settings.accumulate
    batch, seed = settings.batch // settings.accumulate, settings.seed
    return StepSampler(material.count, batch, first, end, seed, *_place_among_processes(), material.weights)


def _hooks(settings: Settings, names: Callable[[int], Sequence[str]], work_dir: Path, on_step: hooks.OnStep) -> list[Hook]:
    """What happens around a pass of the loop; NAMES are those of its pairs."""
    poly = hooks.PolyHook(settings.steps, settings.power, settings.lr_every, settings.accumulate)
    finite = hooks.FiniteHook(names, settings.accumulate)
    return [
        *([hooks.FreezeHook()] if settings.network.freeze_bn else []),
        poly,
        finite,
        hooks.ProgressHook(on_step, poly, settings.log_every, finite),
        hooks.StateHook(work_dir, settings.save_seconds, settings.accumulate, finite),
    ]


def _runner(
    settings: Settings,
    net: network.Segmentor,
    batches: Loader,
    around: list[Hook],
    begin: Callable[[QuietRunner], None],
    work_dir: Path,
    place: Placement,
) -> QuietRunner:
    """The Runner with our loop, optimizer and the hooks AROUND a pass, and none of mmengine's defaults that print or write."""
    passes = {"max_iters": settings.steps * settings.accumulate, "accumulate": settings.accumulate}
    return QuietRunner(
        place,
        begin,
        model=net,
        work_dir=str(work_dir),
        train_dataloader=batches,
        train_cfg={"type": "StepLoop", **passes},
        optim_wrapper=wrap(net, settings.rates, place, settings.precision, settings.accumulate),
        default_hooks=dict.fromkeys(UNUSED),
        custom_hooks=around,
        default_scope="mmseg",
        launcher="pytorch" if _place_among_processes()[1] > 1 else "none",
        env_cfg={"cudnn_benchmark": place.tune, "dist_cfg": {"backend": place.backend}},
        randomness={"seed": settings.seed},
        experiment_name=f"segmentation_{os.getpid()}_{next(_RUNS)}_{digest(str(work_dir))}",
    )


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
