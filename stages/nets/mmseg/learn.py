"""One training of the segmentation network on pairs of image and mask, as the stages that train one share it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from stages.core import curves
from stages.core.errors import StageError
from stages.core.recipe import Recipe
from stages.core.stage import Context, Outputs
from stages.data.images import Array, read_image, read_mask
from stages.nets.backbones import Backbone, WeightReport
from stages.nets.initial import fill_trunk
from stages.nets.mmseg import network, optim, runner, state


@dataclass(frozen=True)
class Pair:
    """The files of an image and of the mask that it is learnt from."""

    image: Path
    mask: Path

    def read(self) -> tuple[Array, Array]:
        """Image (H,W,3) and mask (H,W). Raises StageError when they are unreadable or of different sizes."""
        image, labels = read_image(self.image), read_mask(self.mask)
        if image.shape[:2] != labels.shape:
            sizes = f"{labels.shape[1]}x{labels.shape[0]} beside {image.shape[1]}x{image.shape[0]}"
            raise StageError(
                f"Mask {self.mask} is not of its image's size",
                sizes,
                "Make the masks again: bas refine irn --force, then bas refine choose",
            )
        return image, labels


def learn(recipe: Recipe, pairs: Sequence[Pair], ctx: Context) -> Outputs:
    """Train the network, from the last kept state if there is one; returns its file and the final losses.

    Raises StageError as `runner.train` does, and where initial weights do not fit.
    """
    reports: list[WeightReport] = []
    start = state.kept_step(ctx.out)
    with ctx.track("training", recipe.steps, start) as meter, curves.Curves(ctx.out, start) as kept:

        def on_step(step: int, losses: Mapping[str, Tensor], factor: float) -> None:
            values = kept.add(step, factor, dict(losses))
            meter.advance(step - kept.shown, **values)
            kept.shown = step

        def initialise(trunk: nn.Module) -> None:
            assert isinstance(trunk, Backbone)
            reports.append(fill_trunk(trunk, recipe.weights, ctx.input("seed_train")))
            ctx.log.info(reports[0].line())

        runner.train(
            settings(recipe, ctx), len(pairs), lambda i: pairs[i].read(), ctx.out, ctx.runtime.placement, on_step, initialise
        )
    last = curves.read(ctx.out / "curves.jsonl")[-1]
    metrics = {f"train/{name.replace('loss_', 'loss/')}": v for name, v in last.items() if name.startswith("loss")}
    notes = {"images": len(pairs), "steps": recipe.steps, "weights": recipe.weights}
    if reports:
        notes["loaded"] = reports[0].line()
    return Outputs([Path(runner.CHECKPOINT), curves.plot(ctx.out)], metrics, notes=notes)


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
