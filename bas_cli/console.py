"""What people see: results on stdout, progress and errors on stderr; plain text where there is no terminal."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

PLAIN_SECONDS = 10.0  # between progress lines where there is no terminal
STATE_STYLE = {"done": "green", "stale": "yellow", "partial": "yellow", "missing": "dim"}

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False)


def error(message: str) -> None:
    """One line on stderr, never wrapped."""
    err.print(f"[bold red]error:[/] {_escape(message)}" if err.is_terminal else f"error: {_escape(message)}", soft_wrap=True)


def note(message: str) -> None:
    """A line of progress or advice on stderr."""
    err.print(_escape(message), soft_wrap=True)


def _escape(text: str) -> str:
    return " ".join(text.split()).replace("[", r"\[")


def document(value: Any) -> None:
    """The one JSON document of --json on stdout."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=1) + "\n")


def status_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Stages with their state, time and reason."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, justify in (
        ("stage", "left"),
        ("state", "left"),
        ("time", "right"),
        ("outputs", "right"),
        ("why / first number", "left"),
    ):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for row in rows:
        style = STATE_STYLE[row["state"]]
        seconds = f"{_clock(row['seconds'])}" if row["seconds"] is not None else ""
        table.add_row(
            row["name"], f"[{style}]{row['state']}[/]", seconds, str(row["outputs"] or ""), row["why"] or headline(row["metrics"])
        )
    return table


def headline(metrics: Mapping[str, float]) -> str:
    """The number that tells most about a stage."""
    scores = {key: value for key, value in metrics.items() if "mIoU" in key.rpartition("/")[2]}
    chosen = list((scores or metrics).items())
    return f"{chosen[-1][0]} {chosen[-1][1]:.4g}" if chosen else ""


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"


def metric_tables(stages: Mapping[str, Mapping[str, float]], classes: Mapping[str, Mapping[str, float]]) -> Iterator[Table]:
    """Numbers of every stage, then IoU by class, one column a key."""
    table = Table(title="metrics (IoU in percent)", box=None, pad_edge=False, header_style="bold", title_justify="left")
    table.add_column("stage")
    table.add_column("key")
    table.add_column("value", justify="right")
    for stage, metrics in stages.items():
        for key, value in metrics.items():
            table.add_row(stage, key, f"{value:.2f}")
    yield table
    yield from _class_tables(classes)


def _class_tables(classes: Mapping[str, Mapping[str, float]], columns: int = 6) -> Iterator[Table]:
    keys = list(classes)
    names = list(dict.fromkeys(name for table in classes.values() for name in table))
    for start in range(0, len(keys), columns):
        part = keys[start : start + columns]
        table = Table(title="IoU by class", box=None, pad_edge=False, header_style="bold", title_justify="left")
        table.add_column("class")
        for key in part:
            table.add_column(key.removesuffix("/mIoU").replace("/", "\n"), justify="right")
        for name in names:
            table.add_row(name, *(f"{classes[key][name]:.1f}" if name in classes[key] else "–" for key in part))
        yield table


class Quiet:
    """No progress at all."""

    @contextmanager
    def track(self, label: str, total: int, done: int = 0) -> Iterator[Quiet]:
        """Show nothing."""
        yield self

    def advance(self, steps: int = 1, **values: float) -> None:
        """Show nothing."""


class Bars:
    """Progress bars with rate and time left."""

    @contextmanager
    def track(self, label: str, total: int, done: int = 0) -> Iterator[_Bar]:
        """A bar over TOTAL items, DONE of them there already."""
        columns = (
            TextColumn("  {task.description}"),
            BarColumn(24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("[dim]{task.fields[values]}[/]"),
        )
        with Progress(*columns, console=err) as progress:
            yield _Bar(progress, progress.add_task(label, total=total, completed=done, rate="", values=""), done)


class _Bar:
    def __init__(self, progress: Progress, task: TaskID, done: int) -> None:
        self._progress, self._task, self._pace = progress, task, _Pace(done)

    def advance(self, steps: int = 1, **values: float) -> None:
        rate = self._pace.add(steps)
        self._progress.update(self._task, advance=steps, rate=rate)
        if values:
            self._progress.update(self._task, values="  ".join(f"{key} {value:.3g}" for key, value in values.items()))


class _Pace:
    """Items a second since the start of this call."""

    def __init__(self, done: int) -> None:
        self.count, self._new, self._began = done, 0, time.monotonic()

    def add(self, steps: int) -> str:
        self.count += steps
        self._new += steps
        rate = self._new / max(time.monotonic() - self._began, 1e-6)
        return f"{rate:.1f}/s" if rate >= 1 else f"{1 / rate:.1f} s each"


class Lines:
    """Progress as a line of text now and then, for logs and pipes."""

    @contextmanager
    def track(self, label: str, total: int, done: int = 0) -> Iterator[_Line]:
        """Lines over TOTAL items, DONE of them there already."""
        yield _Line(label, total, done)


class _Line:
    def __init__(self, label: str, total: int, done: int) -> None:
        self._label, self._total, self._pace, self._shown = label, total, _Pace(done), time.monotonic()

    def advance(self, steps: int = 1, **values: float) -> None:
        rate = self._pace.add(steps)
        finished = self._pace.count >= self._total
        if finished or time.monotonic() - self._shown > PLAIN_SECONDS:
            self._shown = time.monotonic()
            text = "  ".join(f"{key} {value:.3g}" for key, value in values.items())
            note(f"  {self._label} {self._pace.count}/{self._total}  {rate}  {text}")


def reporter(quiet: bool) -> Quiet | Bars | Lines:
    """Bars in a terminal, lines elsewhere, nothing with -q."""
    return Quiet() if quiet else Bars() if err.is_terminal else Lines()
