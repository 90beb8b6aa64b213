"""Progress bars for a terminal, with rate and time left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from bas_cli.pace import Pace, words


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
        with Progress(*columns, console=Console(stderr=True, highlight=False)) as progress:
            task = progress.add_task(label, total=total, completed=done, rate="", values="")
            yield _Bar(progress, task, Pace(total, done))


class _Bar:
    def __init__(self, progress: Progress, task: TaskID, pace: Pace) -> None:
        self._progress, self._task, self._pace = progress, task, pace

    def advance(self, steps: int = 1, **values: float) -> None:
        rate = self._pace.add(steps)
        self._progress.update(self._task, advance=steps, rate=rate)
        if values:
            self._progress.update(self._task, values=words(values))
