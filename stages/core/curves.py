"""Training curves: JSON lines that survive a kill, TensorBoard, and a picture."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stages.core.files import write_atomic, write_text

if TYPE_CHECKING:
    from torch import Tensor

FILE = "curves.jsonl"  # in a stage's folder


class Curves:
    """Training curves as JSON lines and TensorBoard; after an interruption, what lies beyond the state is dropped."""

    def __init__(self, folder: Path, start: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        path = folder / FILE
        rows = [row for row in read(folder) if row["step"] <= start]
        write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
        self._lines = path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=start)
        self.shown = start

    def __enter__(self) -> Curves:
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self._board.close()

    def add(self, step: int, factor: float, losses: dict[str, Tensor]) -> dict[str, float]:
        """Write one row of finite losses."""
        values = {name: float(value.detach()) for name, value in losses.items()}
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
        self._lines.write(
            json.dumps({"step": step, "lr_factor": round(factor, 6), **{k: round(v, 6) for k, v in values.items()}}) + "\n"
        )
        self._lines.flush()
        return values


def read(folder: Path) -> list[dict[str, float]]:
    """The rows that are kept in a stage's FOLDER, none where nothing is; a line cut by a crash is left out."""
    path, rows = folder / FILE, []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def final(folder: Path) -> dict[str, float]:
    """The last value of every loss term under its metric's key."""
    last = read(folder)[-1]
    return {f"train/loss/{name}": value for name, value in last.items() if name not in ("step", "lr_factor")}


def distinct(rows: Sequence[Mapping[str, float]]) -> dict[str, tuple[tuple[float, float], ...]]:
    """Points (step, value) by loss term; terms of the same points are one, named `a = b`: a total of one term, one scale."""
    names: dict[tuple[tuple[float, float], ...], list[str]] = {}
    for name in dict.fromkeys(key for row in rows for key in row):
        if name not in ("step", "lr_factor"):
            points = tuple((row["step"], row[name]) for row in rows if name in row)
            names.setdefault(points, []).append(name)
    return {" = ".join(same): points for points, same in names.items()}


def plot(folder: Path) -> Path:
    """Draw every loss term against the step as `curves.png`, terms that never differ as one; returns its name."""
    from matplotlib.figure import Figure

    drawn = distinct(read(folder))
    figure = Figure(figsize=(3.2 * len(drawn), 2.8), layout="constrained")
    for axes, (name, points) in zip(figure.subplots(1, len(drawn), squeeze=False)[0], drawn.items(), strict=True):
        axes.plot(*zip(*points, strict=True), linewidth=1)
        axes.set(title=name, xlabel="step")
        axes.grid(alpha=0.3)
    write_atomic(folder / "curves.png", lambda temporary: figure.savefig(temporary, dpi=110))
    return Path("curves.png")
