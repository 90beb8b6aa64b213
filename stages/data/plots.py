"""Plots of scores and analyses, as PNG files. Values come as the plain numbers that the JSON beside each plot holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.core.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 110


def _canvas(columns: int, width: float = 4.2, height: float = 3.4) -> tuple[Figure, Sequence[Axes]]:
    """A figure with panels side by side, each of WIDTH x HEIGHT inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height), layout="constrained")
    panels = figure.subplots(1, columns, squeeze=False)[0]
    for axes in panels:
        axes.grid(alpha=0.3)
    return figure, panels


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
