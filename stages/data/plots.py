"""Plots of scores and analyses, as PNG files. Values come as the plain numbers that the JSON beside each plot holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stages.core.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 110
PANELS = 4  # at most in a row
SMALLEST = 0.1  # percent of an image, where the axis of object sizes begins
TICKS = (0.1, 1, 2.5, 5, 10, 20, 40, 100)


def _canvas(count: int, width: float = 4.2, height: float = 3.4) -> tuple[Figure, list[Axes]]:
    """A figure with COUNT panels in as few rows as can be, each of WIDTH x HEIGHT inches."""
    from matplotlib.figure import Figure

    rows = -(-count // PANELS)
    columns = -(-count // rows)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for spare in panels[count:]:
        spare.remove()
    for axes in panels[:count]:
        axes.grid(alpha=0.3)
    return figure, panels[:count]


def _write(figure: Figure, path: Path) -> None:
    write_atomic(path, lambda temporary: figure.savefig(temporary, dpi=DPI))


def _numbers(values: Sequence[float | None]) -> list[float]:
    """For plotting: what is not known is not drawn."""
    return [float("nan") if value is None else value for value in values]


def threshold_curves(path: Path, detail: Mapping[str, Any]) -> None:
    """Means against the global threshold, one panel a kind of mean and one line a source; the oracle threshold is marked."""
    sources: Mapping[str, Any] = detail["sources"]
    names = [name for name in next(iter(sources.values()))["curve"] if name != "threshold"]
    names.sort(key=lambda name: "mIoU" not in name)
    figure, panels = _canvas(len(names))
    for axes, name in zip(panels, names, strict=True):
        for index, (source, values) in enumerate(sources.items()):
            thresholds, line = values["curve"]["threshold"], _numbers(values["curve"][name])
            axes.plot(thresholds, line, color=f"C{index}", linewidth=1.6, label=source)
            oracle = values["kinds"].get("oracle")
            if oracle is not None:
                at = thresholds.index(oracle["threshold"])
                axes.plot(thresholds[at], line[at], "o", color=f"C{index}", markersize=5)
        label = name if "mIoU" in name else f"mean {name}"
        axes.set(title=label, xlabel="global threshold", ylabel=f"{label} (%)", xlim=(0, 1))
    panels[0].legend(title="source (dot: oracle threshold)", fontsize=8, title_fontsize=8)
    figure.suptitle(f"scores by threshold, split {detail['split']}")
    _write(figure, path)


def confusion(path: Path, split: str, labels: Sequence[str], kinds: Mapping[str, NDArray[np.float64]]) -> None:
    """For every kind of prediction, in percent of a true class's pixels (G,G), what they were predicted as; NaN stays white."""
    side = max(3.4, 0.26 * len(labels) + 1.2)
    figure, panels = _canvas(len(kinds), side + 0.8, side)
    for axes, (kind, shares) in zip(panels, kinds.items(), strict=True):
        axes.grid(False)
        image = axes.imshow(shares, vmin=0, vmax=100, cmap="Blues")
        axes.set(title=kind, xlabel="predicted", ylabel="true", xticks=range(len(labels)), yticks=range(len(labels)))
        axes.set_xticklabels(labels, rotation=90, fontsize=7)
        axes.set_yticklabels(labels, fontsize=7)
        figure.colorbar(image, ax=axes, label="% of the true class", shrink=0.8)
    figure.suptitle(f"confusion, split {split}")
    _write(figure, path)


def sizes(path: Path, kind: str, sources: Mapping[str, Any]) -> None:
    """IoU against object size: one panel a source with the density of its objects, then the means of all by size bin.

    SOURCES: by name `sizes`, the rows of each bin, and `objects`, columns `share` and KIND, in percent.
    """
    figure, panels = _canvas(len(sources) + 1)
    for axes, (source, values) in zip(panels, sources.items(), strict=False):
        shares, ious = _numbers(values["objects"]["share"]), _numbers(values["objects"][kind])
        known = [(max(share, SMALLEST), iou) for share, iou in zip(shares, ious, strict=True) if iou == iou]
        extent = (np.log10(SMALLEST), 2, 0, 100)
        places = ([share for share, _ in known], [iou for _, iou in known])  # of no objects, two empty lists
        drawn = axes.hexbin(*places, xscale="log", gridsize=(18, 11), mincnt=1, cmap="viridis", extent=extent)
        figure.colorbar(drawn, ax=axes, label="objects")
        axes.set(title=source, xlabel="object size (% of the image)", ylabel="IoU (%)", xlim=(SMALLEST, 100), ylim=(0, 100))
        axes.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS])
        axes.minorticks_off()
    _size_means(panels[-1], sources)
    figure.suptitle(f"IoU of every object against its size, {kind} thresholds")
    _write(figure, path)


def _size_means(axes: Axes, sources: Mapping[str, Any]) -> None:
    """Mean IoU by size bin, one line a source."""
    for index, (source, values) in enumerate(sources.items()):
        axes.plot(_numbers([row["IoU"] for row in values["sizes"]]), "o-", color=f"C{index}", markersize=4, label=source)
    rows = next(iter(sources.values()))["sizes"]
    labels = [f"{row['from']:g}-{row['to']:g}\n{row['objects']}" for row in rows]
    axes.set_xticks(range(len(rows)), labels, fontsize=8)
    axes.set(
        title="mean by size", xlabel="object size (% of the image)\nnumber of objects", ylabel="mean IoU (%)", ylim=(0, None)
    )
    axes.legend(fontsize=8)


@dataclass(frozen=True)
class Example:
    """One object: its image (H,W,3), some eroded and dilated masks (K,H,W) of relative areas (K,), its curves by name."""

    image: NDArray[np.uint8]
    masks: NDArray[np.bool_]
    areas: Sequence[float]
    curves: Mapping[str, Sequence[float]]


LABELS = {
    "activation": "foreground activation / S",
    "cross_entropy": "cross-entropy (nats)",
    "background_activation": "background activation S_b / S",
}


def activation(path: Path, result: Mapping[str, Any], example: Example) -> None:
    """The example's masks, then the curves of RESULT: median and middle half of the objects, and the example."""
    figure, panels = _canvas(1 + len(LABELS))
    _outlines(panels[0], example)
    panels[0].set_title(f"typical: {result['example']['class']}, {result['example']['image']}", fontsize=10)
    ratios = result["ratios"]
    for index, (axes, (name, label)) in enumerate(zip(panels[1:], LABELS.items(), strict=True)):
        values = {key: _numbers(column) for key, column in result["curves"][name].items()}
        axes.fill_between(ratios, values["q1"], values["q3"], color=f"C{index}", alpha=0.2, label="middle half of the objects")
        axes.plot(ratios, values["median"], color=f"C{index}", linewidth=1.8, label="median")
        axes.plot(ratios, example.curves[name], ":", color="black", linewidth=1.2, label="typical object")
        axes.axvline(1, color="red", linewidth=1, label="true mask")
        settled = result["settles_at"][name]
        axes.axvline(settled, color=f"C{index}", linestyle="--", linewidth=1, label=f"nine tenths of its way: {settled:.2f}")
        axes.set(title=label, xlabel="mask area / area of the true mask", ylabel=label, xlim=(0, ratios[-1]))
        axes.legend(fontsize=7)
    figure.suptitle(f"eroded and dilated true masks of {result['objects']} objects, as F2 sees the masked features")
    _write(figure, path)


def _outlines(axes: Axes, example: Example) -> None:
    """The image with the outline of each mask, small ones dark and large ones bright; the true one is red."""
    from matplotlib import colormaps
    from matplotlib.lines import Line2D

    axes.imshow(example.image)
    axes.set_axis_off()
    handles = []
    for position, (mask, area) in enumerate(zip(example.masks, example.areas, strict=True)):
        colour = "red" if abs(area - 1) < 0.02 else colormaps["viridis"](position / max(len(example.areas) - 1, 1))
        axes.contour(mask, levels=[0.5], colors=[colour], linewidths=1.6)
        handles.append(Line2D([], [], color=colour, label=f"{area:.2f}"))
    axes.legend(handles=handles, title="area", fontsize=7, title_fontsize=7, loc="lower right")
