"""What people see: results on stdout, progress and errors on stderr; plain text where there is no terminal.

rich is imported where it draws, not before: `bas status` has to answer at once.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.table import Table

    from stages.core.stage import Reporter

PLAIN_SECONDS = 10.0  # between progress lines where there is no terminal
COLOURS = {"done": "32", "stale": "33", "partial": "33", "missing": "2", "error": "1;31", "warning": "33"}  # ANSI


def colour(text: str, kind: str, stream: TextIO) -> str:
    """TEXT in the colour of KIND on a terminal, as it is elsewhere and under NO_COLOR."""
    return f"\x1b[{COLOURS[kind]}m{text}\x1b[0m" if stream.isatty() and not os.environ.get("NO_COLOR") else text


def error(message: str) -> None:
    """One line on stderr, never wrapped."""
    sys.stderr.write(f"{colour('error:', 'error', sys.stderr)} {_one_line(message)}\n")


def warn(message: str) -> None:
    """A line of warning on stderr."""
    sys.stderr.write(f"{colour('warning:', 'warning', sys.stderr)} {_one_line(message)}\n")


def note(message: str) -> None:
    """A line of progress or advice on stderr."""
    sys.stderr.write(" ".join(message.splitlines()) + "\n")


def stage_note(message: str) -> None:
    """A line of progress `stage: words`, the stages in a column."""
    stage, _, words = message.partition(": ")
    note(f"{stage:<16} {words}")


def _one_line(text: str) -> str:
    return " ".join(text.split())


def document(value: Any) -> None:
    """The one JSON document of --json on stdout."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=1) + "\n")


def status_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Stages with their state, time and reason, on stdout."""
    cells = [("stage", "state", "time", "outputs", "why / first number")]
    for row in rows:
        seconds = _clock(row["seconds"]) if row["seconds"] is not None else ""
        cells.append((row["name"], row["state"], seconds, str(row["outputs"] or ""), row["why"] or headline(row["metrics"])))
    _stages(cells)


def plan_table(rows: Sequence[Mapping[str, Any]], total: Mapping[str, float]) -> None:
    """Stages with what each would take, and all together, on stdout."""
    cells: list[tuple[str, ...]] = [("stage", "state", "minutes", "memory", "disk", "known from", "why")]
    for row in rows:
        cost = row["estimate"]
        taken = ("?", "?", "?", "") if cost is None else (*_taken(cost), cost["from"] or "")
        cells.append((row["name"], row["state"], *taken, row["why"]))
    _stages([*cells, ("all", "", *_taken(total), "", "")])


def _taken(cost: Mapping[str, float]) -> tuple[str, str, str]:
    return f"{cost['minutes']:.1f}", f"{cost['memory_mb']} MB", f"{cost['disk_mb']} MB"


def _stages(cells: Sequence[Sequence[str]]) -> None:
    """Columns under a line of titles: name and state, numbers flush right, the last column as it is."""
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    for name, state, *numbers, why in cells:
        shown = colour(f"{state:<{widths[1]}}", state, sys.stdout) if state in COLOURS else f"{state:<{widths[1]}}"
        middle = "  ".join(f"{number:>{width}}" for number, width in zip(numbers, widths[2:], strict=False))
        sys.stdout.write(f"{name:<{widths[0]}}  {shown}  {middle}  {why}".rstrip() + "\n")


def headline(metrics: Mapping[str, float]) -> str:
    """The number that tells most about a stage."""
    scores = {key: value for key, value in metrics.items() if "mIoU" in key.rpartition("/")[2]}
    chosen = list((scores or metrics).items())
    return f"{chosen[-1][0]} {chosen[-1][1]:.4g}" if chosen else ""


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"


def show(tables: Iterator[Table]) -> None:
    """Tables on stdout, each with an empty line after it."""
    from rich.console import Console

    out = Console(highlight=False, soft_wrap=True)
    for table in tables:
        out.print(table)
        out.print()


def table(title: str, *columns: str, words: int = 1) -> Table:
    """An empty table of ours: the first WORDS columns hold words, the others numbers."""
    from rich.table import Table

    made = Table(title=title, box=None, pad_edge=False, header_style="bold", title_justify="left")
    for index, column in enumerate(columns):
        made.add_column(column, justify="left" if index < words else "right")
    return made


def cell(value: float | None) -> str:
    """A number of a table in one digit after the point; a dash for none."""
    return "–" if value is None else f"{value:.1f}"


def metric_tables(stages: Mapping[str, Mapping[str, float]], classes: Mapping[str, Mapping[str, float]]) -> Iterator[Table]:
    """Numbers of every stage, then IoU by class, one column a key."""
    shown = table("metrics (IoU in percent)", "stage", "key", "value", words=2)
    for stage, metrics in stages.items():
        for key, value in metrics.items():
            shown.add_row(stage, key, f"{value:.2f}")
    yield shown
    yield from _class_tables(classes)


def _class_tables(classes: Mapping[str, Mapping[str, float]], columns: int = 6) -> Iterator[Table]:
    keys = list(classes)
    names = list(dict.fromkeys(name for row in classes.values() for name in row))
    for start in range(0, len(keys), columns):
        part = keys[start : start + columns]
        shown = table("IoU by class", "class", *(key.removesuffix("/mIoU").replace("/", "\n") for key in part))
        for name in names:
            shown.add_row(name, *(cell(classes[key].get(name)) for key in part))
        yield shown


class Quiet:
    """No progress at all."""

    @contextmanager
    def track(self, label: str, total: int, done: int = 0) -> Iterator[Quiet]:
        """Show nothing."""
        yield self

    def advance(self, steps: int = 1, **values: float) -> None:
        """Show nothing."""


class Pace:
    """Items a second since the start of this call, and what is left."""

    def __init__(self, total: int, done: int) -> None:
        self.count, self._total, self._new, self._began = done, total, 0, time.monotonic()

    @property
    def finished(self) -> bool:
        """Whether all items are there."""
        return self.count >= self._total

    def add(self, steps: int) -> str:
        """Count STEPS more items; returns the rate in words."""
        self.count += steps
        self._new += steps
        return f"{self._rate:.1f}/s" if self._rate >= 1 else f"{1 / self._rate:.1f} s each"

    @property
    def _rate(self) -> float:
        return max(self._new, 1) / max(time.monotonic() - self._began, 1e-6)

    def left(self) -> str:
        """The time left in words."""
        return "" if self.finished else f"{_clock((self._total - self.count) / self._rate)} left"


def words(values: Mapping[str, float]) -> str:
    """Named values in a few digits."""
    return "  ".join(f"{key} {value:.3g}" for key, value in values.items())


class Lines:
    """Progress as a line of text now and then, for logs and pipes."""

    @contextmanager
    def track(self, label: str, total: int, done: int = 0) -> Iterator[_Line]:
        """Lines over TOTAL items, DONE of them there already."""
        yield _Line(label, total, done)


class _Line:
    def __init__(self, label: str, total: int, done: int) -> None:
        self._label, self._total, self._pace, self._shown = label, total, Pace(total, done), time.monotonic()

    def advance(self, steps: int = 1, **values: float) -> None:
        rate = self._pace.add(steps)
        if self._pace.finished or time.monotonic() - self._shown > PLAIN_SECONDS:
            self._shown = time.monotonic()
            parts = (f"  {self._label} {self._pace.count}/{self._total}", rate, self._pace.left(), words(values))
            note("  ".join(part for part in parts if part))


def reporter(quiet: bool) -> Reporter:
    """Bars in a terminal, lines elsewhere, nothing with -q."""
    if quiet:
        return Quiet()
    if not sys.stderr.isatty():
        return Lines()
    from bas_cli.bars import Bars

    return Bars()
