"""The search of image-specific thresholds: against full forward passes, and against inference without it."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks import measure
from benchmarks.measure import Measured, Pair, Turn
from benchmarks.small_run import IMAGE, network, noise, runtime
from stages.core.runtime import Runtime
from stages.formulas import seeds, thresholds
from stages.formulas.bas import EPS
from stages.nets import bas, hoisted

SCALES = (1.0, 0.5, 1.5, 2.0)
CLASS = 0


def bump() -> Tensor:
    """A normalised map (H,W) that falls from 1 in the middle to 0 in the corners: every threshold has its own mask."""
    rows, columns = (torch.linspace(-1, 1, side) for side in IMAGE)
    distance = (rows[:, None] ** 2 + columns**2).sqrt()
    return 1 - distance / distance.max()


def by_full_passes(net: bas.BasNet, image: Tensor, score_map: Tensor, count: int) -> float:
    """The best of COUNT thresholds, each mask judged by a forward pass of the whole network, from the image on."""
    score = net(image).class_maps.float().mean(dim=(2, 3))[0, CLASS]
    values = []
    for threshold in thresholds.grid(count):
        features = net.extractor(image)
        mask = thresholds.masks_at(score_map[None], threshold[None], (features.shape[2], features.shape[3])).float()[0]
        background = net.evaluator(features * (1 - mask)).float().mean(dim=(2, 3))[0, CLASS]
        values.append(float((background.relu() / (score + EPS)).clamp_max(1) + mask.mean()))
    best = [index for index, value in enumerate(values) if value == min(values)]
    return float(thresholds.grid(count)[best[len(best) // 2]])


def searched(net: bas.BasNet, image: Tensor, score_map: Tensor, count: int, run: Runtime) -> tuple[float | None, int]:
    """The same by the product, from the image on, and how many masks were judged for it."""
    judge, judged = hoisted.Evaluator(net.evaluator, net.extractor(image)), 0

    def counting(masks: Tensor) -> Tensor:
        nonlocal judged
        judged += len(masks)
        return judge(masks)

    maps, classes = score_map[None], torch.tensor([CLASS], device=image.device)
    found = thresholds.search(maps, classes, count, judge.size, judge.logits, counting, run.masks_at_once)[0]
    return found, judged


def _placed(run: Runtime) -> tuple[bas.BasNet, Tensor, Tensor]:
    net = run.place(network()[0].eval(), channels_last=True)
    return net, run.place(noise(), channels_last=True), run.place(bump())


def _waiting(run: Runtime) -> measure.Work:
    return torch.cuda.synchronize if run.device.type == "cuda" else lambda: None


def search() -> Measured:
    """ResNet50, one image of 375 x 500, one class, K = 20, all masks different."""
    run = runtime()
    net, image, score_map = _placed(run)
    with torch.inference_mode(), run.fabric.autocast():
        expected, (found, judged) = by_full_passes(net, image, score_map, 20), searched(net, image, score_map, 20, run)
        measure.require_equal(found == expected, f"threshold {found}, by full passes {expected}")
        pair = measure.in_turns(
            lambda: by_full_passes(net, image, score_map, 20),
            lambda: searched(net, image, score_map, 20, run),
            wait=_waiting(run),
        )
    sizes = {"image": IMAGE, "trunk": "resnet50", "masks": 20, "precision": run.precision}
    return pair.against(2 if run.device.type == "cpu" else 8, sizes, threshold=found, masks_judged=judged)


def _inference(net: bas.BasNet, image: Tensor, run: Runtime) -> None:
    """Every scale of one image and its mirror image."""
    for scale in SCALES:
        size = seeds.scaled_size(*IMAGE, scale)
        view = torch.nn.functional.interpolate(image, size, mode="bicubic")
        net(run.place(torch.cat([view, view.flip(-1)]), channels_last=True))


def overhead() -> Measured:
    """Inference at four scales with mirror images, with the search in one map of one class and without."""
    run = runtime()
    net, image, score_map = _placed(run)
    with torch.inference_mode(), run.fabric.autocast():
        pairs, judged = {}, {}
        for count in (20, 7):
            judged[count] = searched(net, image, score_map, count, run)[1]
            pairs[count] = measure.in_turns(
                lambda: _inference(net, image, run),
                lambda count=count: searched(net, image, score_map, count, run),
                wait=_waiting(run),
            )
    twenty, seven = (_with_inference(pairs[count]) for count in (20, 7))
    met = 1 / twenty.ratio <= 1.9 and 1 / seven.ratio <= 1.3
    sizes = {"image": IMAGE, "trunk": "resnet50", "scales": SCALES, "classes": 1, "maps": 1, "precision": run.precision}
    extra = {
        "ratio_7_masks": 1 / seven.ratio,
        "cpu_ratio": 1 / twenty.cpu_ratio,
        "cpu_ratio_7_masks": 1 / seven.cpu_ratio,
        "masks_judged": judged[20],
        "masks_judged_of_7": judged[7],
    }
    return Measured(1 / twenty.ratio, met, twenty.seconds, "s", twenty.reference_seconds, sizes, extra)


def _with_inference(pair: Pair) -> Pair:
    """The search's seconds added to those of the inference that it follows."""
    both = [Turn(a.wall + b.wall, a.own + b.own) for a, b in zip(pair.reference, pair.product, strict=True)]
    return Pair(pair.reference, tuple(both))
