"""One training of the segmentation network on pairs of image and mask, as the stages that train one share it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from stages.core import curves
from stages.core.files import read_json, write_json
from stages.core.recipe import Recipe
from stages.core.stage import Context, Outputs
from stages.formulas import noise
from stages.nets import norms
from stages.nets.mmseg import network, optim, runner, standalone, state
from stages.nets.mmseg.data import Material
from stages.nets.mmseg.pairs import Limits, Pair
from stages.nets.mmseg.pairs import limits as limits_of
from stages.nets.mmseg.start import fill_new
from stages.nets.pretrained import WeightReport

INITIAL = "initial.json"  # what the initial weights filled, when the training began


def learn(recipe: Recipe, pairs: Sequence[Pair], ctx: Context) -> Outputs:
    """Train the network, from the last kept state if there is one; returns its file, the final losses and notes.

    Raises StageError as `runner.train` does, where initial weights do not fit, and where no mask says how sure it is and
    `recipe.void` asks for it.
    """
    limits = limits_of(pairs, recipe.void, ctx) if recipe.void else None
    present = [pair.sample.labels for pair in pairs]
    weights = noise.repeat_factors(present, recipe.repeat_below) if recipe.repeat_below else None
    material = Material(len(pairs), lambda item: pairs[item].read(limits), weights, lambda item: pairs[item].sample.id)
    start = state.kept_step(ctx.out)
    with ctx.track("training", recipe.steps, start) as meter, curves.Curves(ctx.out, start) as kept:

        def on_step(step: int, losses: Mapping[str, Tensor], factor: float) -> None:
            values = kept.add(step, factor, dict(losses))
            meter.advance(step - kept.shown, **values)
            kept.shown = step

        def initialise(net: network.Segmentor) -> None:
            report = fill_new(net, recipe.weights, ctx.input("seed_train"))
            _warn_of_frozen(net, recipe, ctx)
            _warn_of_taught(report, ctx)
            ctx.log.info(report.line())
            write_json(ctx.out / INITIAL, {"loaded": report.line(), "initial": report.facts()})

        runner.train(settings(recipe, ctx), material, ctx.out, ctx.runtime.placement, on_step, initialise)
    last = curves.read(ctx.out)[-1]
    metrics = {f"train/{name.replace('loss_', 'loss/')}": v for name, v in last.items() if name.startswith("loss")}
    notes = _notes(recipe, present, limits, ctx.dataset.classes)
    notes |= {"network": ctx.shared["segment"].network, **(read_json(ctx.out / INITIAL) or {})}
    return Outputs([Path(runner.CHECKPOINT), Path(standalone.NAME), curves.plot(ctx.out)], metrics, notes=notes)


def _warn_of_frozen(net: network.Segmentor, recipe: Recipe, ctx: Context) -> None:
    """Batch-norm that nothing has ever trained does not normalise, and frozen it never will."""
    if recipe.freeze_bn and recipe.weights == "none" and norms.batch_norms(net.backbone):
        ctx.log.warning("the trunk's batch-norm is frozen at random weights: set segment_train.freeze_bn=false or give weights")


def _warn_of_taught(report: WeightReport, ctx: Context) -> None:
    """A head knows what masks have taught it, whoever's they were: nobody can tell whether true ones were among them."""
    if report.taught:
        ctx.log.warning(
            "weights %s: the head is taken over too; masks have taught it, perhaps true ones of these photographs. The manifest "
            "and the model card say so",
            report.source,
        )


def _notes(recipe: Recipe, present: Sequence[Sequence[int]], limits: Limits | None, classes: Sequence[str]) -> dict[str, Any]:
    """What was learnt from, for the manifest: below which confidence pixels were void, and how often rare classes came again."""
    notes: dict[str, Any] = {"images": len(present), "steps": recipe.steps, "weights": recipe.weights}
    if limits is not None:
        labels = ("background", *classes)
        notes["void_below"] = {name: round(int(limits[label]) / 255, 3) for label, name in enumerate(labels)}
    if recipe.repeat_below:
        factors = noise.class_factors(present, recipe.repeat_below)
        notes["repeated"] = {classes[index]: round(factor, 2) for index, factor in factors.items() if factor > 1}
    return notes


def settings(recipe: Recipe, ctx: Context) -> runner.Settings:
    """The recipe as the Runner's settings."""
    workers = ctx.runtime.workers
    return runner.Settings(
        network=network.Network(
            backbone=recipe.backbone,
            output_stride=recipe.output_stride,
            classes=("background", *ctx.dataset.classes),
            scales=recipe.scales,
            loss=recipe.loss,
            freeze_bn=recipe.freeze_bn,
            channels_last=recipe.channels_last,
            crop=recipe.crop,
            name=ctx.shared["segment"].network,
        ),
        steps=recipe.steps,
        batch=recipe.batch,
        accumulate=recipe.accumulate,
        crop_scales=recipe.crop_scales,
        rates=optim.Rates(
            kind=recipe.optimizer,
            lr=recipe.lr,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            head_weight=recipe.head_weight_factor,
            head_bias=recipe.head_bias_factor,
        ),
        power=recipe.poly_power,
        lr_every=recipe.lr_every,
        seed=ctx.runtime.config.seed,
        workers=min(workers, 6 if workers > 2 else 1),
        precision=ctx.runtime.precision,
    )
