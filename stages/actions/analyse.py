"""Analyses of a finished run: IoU against object size (IJCV 2023, Fig. 21), activation against mask area (3.5, Fig. 1 and 6).

They write a plot and its numbers into the run's folder `analysis`; no stage reads them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.actions.evaluate import details
from stages.core import stage as contract
from stages.core.errors import StageError
from stages.core.files import write_json
from stages.core.manifest import read_manifest

if TYPE_CHECKING:
    import numpy as np

    from stages.actions.run import Run
    from stages.core.runtime import Runtime
    from stages.data.dataset import Sample
    from stages.data.images import Array
    from stages.data.scoring import Pairs
    from stages.nets.bas import BasNet

CURVES = ("activation", "cross_entropy", "background_activation")
SHOWN = (0.25, 0.5, 1.0, 1.5, 2.0)  # areas of the example's masks
LEAST_CELLS = 4  # of the features' grid: what covers less cannot be eroded there


def folder(run: Run) -> Path:
    """Where the analyses of a run lie."""
    return run.folder / "analysis"


def size(run: Run, kind: str) -> dict[str, Any]:
    """IoU against object size of every source that has scores at thresholds of KIND: size.png, size.json and its content.

    Raises StageError when nothing was scored.
    """
    from stages.data import plots

    found: dict[str, Any] = {}
    for detail in details(run).values():
        for source, values in detail["sources"].items():
            if kind in values["kinds"]:
                objects = {name: values["objects"][name] for name in ("share", kind)}
                found[source] = {"sizes": values["kinds"][kind]["sizes"], "objects": objects}
    if not found:
        raise StageError(
            f"No scores with {kind} thresholds in {run.folder}",
            "no source was labelled with them",
            "Choose another kind, or see seed_infer.search",
        )
    plots.sizes(folder(run) / "size.png", kind, found)
    result = {"threshold": kind, "sources": {source: values["sizes"] for source, values in found.items()}}
    write_json(folder(run) / "size.json", result)
    return result


@dataclass(frozen=True)
class _Measured:
    """One object: whose it is, its class id, and its three curves (3,R)."""

    sample: Sample
    chosen: int
    curves: np.ndarray


def activation(run: Run, images: int, reporter: contract.Reporter) -> dict[str, Any]:
    """Foreground activation, cross-entropy and background activation against mask area, over the objects of some images.

    IMAGES of the scored list, evenly spread, are taken. Writes activation.png and activation.json; returns its content.
    Raises StageError without a seed network, without true masks, or when no object can be judged.
    """
    import numpy as np

    from stages.formulas import activation as formulas

    measured, skipped = _measure(run, images, reporter)
    stacked = np.stack([each.curves for each in measured])
    found = {name: formulas.spread(stacked[:, index]) for index, name in enumerate(CURVES)}
    typical = measured[formulas.most_typical(stacked)]
    result = {
        "objects": len(measured),
        "skipped": skipped,
        "ratios": list(formulas.RATIOS),
        "curves": found,
        "settles_at": {name: round(formulas.settles_at(values["median"]), 3) for name, values in found.items()},
        "example": {"image": typical.sample.id, "class": run.dataset.classes[typical.chosen]},
    }
    write_json(folder(run) / "activation.json", result)
    _plot(run, result, typical)
    return result


def _measure(run: Run, images: int, reporter: contract.Reporter) -> tuple[list[_Measured], dict[str, int]]:
    """The objects that could be judged, and how many could not by reason."""
    import torch

    from stages.nets import bas, storage

    if read_manifest(run.folder / "seed_train") is None:
        raise StageError(f"No seed network in {run.folder}", "seed_train has not finished", "Run `bas seed train` first")
    network = run.report("seed_train")
    if network.state != "done":
        run.on_warning(f"the seed network is {network.state}: {network.why}. Its curves are those of the network that is there")
    pairs = _some(run, images)
    net = run.runtime.place(bas.load(run.folder / "seed_train" / storage.FILE)[0].eval(), channels_last=True)
    measured: list[_Measured] = []
    skipped = {"too small": 0, "not seen": 0}
    with torch.inference_mode(), run.runtime.fabric.autocast(), reporter.track("masks", len(pairs)) as meter:
        for sample, truth in pairs:
            for found in _objects(net, sample, truth, run.runtime):
                if isinstance(found, str):
                    skipped[found] += 1
                else:
                    measured.append(found)
            meter.advance()
    if not measured:
        raise StageError(
            "No object can be analysed",
            f"{skipped['too small']} are too small, {skipped['not seen']} the network does not see",
            "Take more --images, or train longer",
        )
    return measured, skipped


def _some(run: Run, images: int) -> Pairs:
    """Evenly spread images of the scored list, with their true masks. Raises StageError where masks are absent."""
    import logging

    from stages.data import scoring

    pairs = scoring.with_truth(run.dataset, "score", logging.getLogger("bas"))
    if pairs is None:
        raise StageError(
            "Cannot erode and dilate true masks",
            f"not every image of list '{run.dataset.config.score}' has one",
            "Add the masks, or set data.score to a list of images that have them",
        )
    count = min(images, len(pairs))
    return scoring.Pairs(tuple(pairs.rows[len(pairs) * index // count] for index in range(count)))


def _objects(net: BasNet, sample: Sample, truth: Array, runtime: Runtime) -> list[_Measured | str]:
    """The curves of every labelled class of an image, or why there are none. Raises StageError on a mask of another size."""
    from stages.data import scoring
    from stages.data.images import read_image
    from stages.data.transforms import normalise

    image = read_image(sample.image)
    scoring.require_size(truth, image.shape[:2])
    features = net.extractor(runtime.place(normalise(image)[None], channels_last=True))
    scores = net.evaluator(features).float().mean(dim=(2, 3))[0]
    cell = truth.size / features[0, 0].numel()
    found: list[_Measured | str] = []
    for chosen in sample.labels:
        mask = truth == chosen + 1
        if mask.sum() < LEAST_CELLS * cell:
            found.append("too small")
        elif float(scores[chosen]) <= 0:
            found.append("not seen")
        else:
            found.append(_Measured(sample, chosen, curves(net, features, mask, chosen, sample.labels)))
    return found


def curves(net: BasNet, features: Any, mask: np.ndarray, chosen: int, present: tuple[int, ...]) -> np.ndarray:
    """The three curves (3,R) of one object: F2 on features (1,N,h,w) times eroded and dilated masks, and times the rest."""
    import numpy as np

    from stages.formulas import activation as formulas

    def judge(kept: Any) -> Any:
        return net.evaluator(features * kept).float().mean(dim=(2, 3))

    masks, areas = formulas.erode_and_dilate(mask)
    soft = formulas.on_features(masks, tuple(features.shape[2:])).to(features.device)
    score = judge(soft.new_ones(1, 1, 1, 1))[0, chosen]
    foreground, background = judge(soft), judge(1 - soft)
    values = (
        formulas.relative_activation(foreground[:, chosen], score),
        formulas.cross_entropy(foreground, chosen, present),
        formulas.relative_activation(background[:, chosen], score),
    )
    return np.stack([formulas.at_ratios(value.cpu().numpy(), areas) for value in values])


def _plot(run: Run, result: dict[str, Any], typical: _Measured) -> None:
    """activation.png: the most typical object with some of its masks, and the three curves over all objects and over it."""
    from stages.data import plots
    from stages.data.images import read_image, read_mask
    from stages.formulas import activation as formulas

    path = run.dataset.mask(typical.sample)
    assert path is not None
    masks, areas = formulas.erode_and_dilate(read_mask(path) == typical.chosen + 1, SHOWN)
    example = plots.Example(
        read_image(typical.sample.image), masks, areas.tolist(), dict(zip(CURVES, typical.curves.tolist(), strict=True))
    )
    plots.activation(folder(run) / "activation.png", result, example)
