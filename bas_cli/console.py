"""What people see: results on stdout, notes and errors on stderr; plain text where there is no terminal.

rich is imported where it draws, not before: `bas status` has to answer at once.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from bas_cli.pace import clock

if TYPE_CHECKING:
    from rich.table import Table

    from stages.actions.ablate import Result, Spread

NAMED = 20  # classes that a table names
UNBOUNDED = 1000  # characters a line where there is no terminal: a pipe or a file has no edge to wrap at
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


def status_table(rows: Sequence[Mapping[str, Any]], headline: Callable[[Mapping[str, float]], str]) -> None:
    """Stages with their state, time and reason, else the HEADLINE of their metrics, on stdout."""
    cells = [("stage", "state", "time", "outputs", "why / first number")]
    for row in rows:
        seconds = clock(row["seconds"]) if row["seconds"] is not None else ""
        cells.append((row["name"], row["state"], seconds, str(row["outputs"] or ""), row["why"] or headline(row["metrics"])))
    _columns(cells)


def plan_table(rows: Sequence[Mapping[str, Any]], total: Mapping[str, float]) -> None:
    """Stages with what each would take, and all together, on stdout."""
    cells: list[tuple[str, ...]] = [("stage", "state", "minutes", "memory", "disk", "known from", "why")]
    for row in rows:
        cost = row["estimate"]
        taken = ("?", "?", "?", "") if cost is None else (*_taken(cost), cost["from"] or "")
        cells.append((row["name"], row["state"], *taken, row["why"]))
    _columns([*cells, ("all", "", *_taken(total), "", "")])


def found_table(found: Mapping[str, Any], stream: TextIO | None = None) -> None:
    """What was found in a folder of photographs and what is made of it, on stdout or STREAM; warnings on stderr."""
    layout = {
        "voc": "VOC devkit",
        "coco": "COCO's documents of instances",
        "folder": "one sub-folder a class",
        "table": "photographs and a file of labels",
    }
    split = ", ".join(f"{name} {count}" for name, count in found["lists"].items())
    cost, classes = found["estimate"], list(found["classes"].items())
    most, others = classes[:NAMED], classes[NAMED:]
    rows = [
        ("layout", layout.get(found["layout"], found["layout"])),
        ("images", f"{found['images']}, the longer side {found['side']} pixels (largest {found['largest']})"),
        ("classes", ", ".join(f"{name} {count}" for name, count in most) + f", and {len(others)} more" * bool(others)),
        ("labels", f"several classes in {found['several']}, none in {found['negatives']}, not labelled {found['unlabelled']}"),
        ("true masks", str(found["masks"]) if found["masks"] else "none: nothing will be scored"),
        ("lists", f"{split} ({found['split']})"),
        ("expected", f"{cost['minutes']:.0f} minutes, {cost['memory_mb']} MB of memory, {cost['disk_mb']} MB of disk"),
        ("written to", found["config"]),
    ]
    for name, words in rows:
        (stream or sys.stdout).write(f"{name:<10}  {words}\n")
    for key, words in (("absent", "are named and not there"), ("unnamed", "are there and not named")):
        if found.get(key):
            warn(f"{len(found[key])} images {words}, first '{found[key][0]}'")
    for path, count in found["left_out"].items():
        warn(f"{count} images are left out, as they are not in {path}")


def _taken(cost: Mapping[str, float]) -> tuple[str, str, str]:
    return f"{cost['minutes']:.1f}", f"{cost['memory_mb']} MB", f"{cost['disk_mb']} MB"


def size_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Stages and other parts of a run with their state, files and bytes, on stdout."""
    cells = [("stage", "state", "files", "size", "why")]
    cells += [(row["name"], row["state"], str(row["files"]), megabytes(row["bytes"]), row["why"]) for row in rows]
    _columns([*cells, ("all", "", str(sum(row["files"] for row in rows)), megabytes(sum(row["bytes"] for row in rows)), "")])


def megabytes(size: int) -> str:
    """Bytes in words."""
    return f"{size / 1e6:.1f} MB"


def lines(rows: Iterable[str]) -> None:
    """Results of a line each on stdout."""
    sys.stdout.writelines(f"{row}\n" for row in rows)


def _columns(cells: Sequence[Sequence[str]]) -> None:
    """Columns under a line of titles: two flush left (states in colour), then flush right, the last as it is."""
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    for name, state, *numbers, why in cells:
        shown = colour(f"{state:<{widths[1]}}", state, sys.stdout) if state in COLOURS else f"{state:<{widths[1]}}"
        middle = "  ".join(f"{number:>{width}}" for number, width in zip(numbers, widths[2:], strict=False))
        sys.stdout.write(f"{name:<{widths[0]}}  {shown}  {middle}  {why}".rstrip() + "\n")


def ablation_table(result: Result) -> None:
    """A table of the paper beside ours on stdout: a line for each row and kind of threshold."""
    seeds = ", ".join(map(str, result.seeds))
    sys.stdout.write(
        f"{result.table.title}. {result.metric} in percent on the scored list; mean ± deviation over seeds {seeds}\n"
    )
    cells = [("row", "thresholds", "paper", "ours", "seeds", "paired difference to")]
    shown = ""
    for line in result.lines:
        row, kind = line.place
        ours, seeds = ("–", "0") if line.ours is None else (_spread(line.ours), str(line.ours.count))
        against = ";  ".join(f"{name}: {_spread(difference, '+')}" for name, difference in line.differences.items())
        paper = "–" if line.paper is None else f"{line.paper:g}"
        cells.append(("" if row == shown else row, kind, paper, ours, f"{seeds} of {len(result.seeds)}", against))
        shown = row
    _columns(cells)
    sys.stdout.write(f"{result.table.note}\n" if result.table.note else "")
    if result.missing:
        note(f"{len(result.missing)} cells are not finished, first {result.missing[0].run.folder}: ask without --report to go on")


def _spread(value: Spread, sign: str = "") -> str:
    deviation = "" if value.deviation is None else f" ± {value.deviation:.1f}"
    return f"{value.mean:{sign}.1f}{deviation}"


def show(tables: Iterator[Table]) -> None:
    """Tables on stdout, each with an empty line after it."""
    from rich.console import Console

    out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else UNBOUNDED)
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
