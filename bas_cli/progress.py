"""Where stages show how far they are: bars in a terminal, lines elsewhere, nothing with -q; all on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from bas_cli.console import note
from bas_cli.pace import Pace, words

if TYPE_CHECKING:
    from stages.core.stage import Reporter

PLAIN_SECONDS = 10.0  # between progress lines where there is no terminal


class Quiet:
    """No progress at all."""

    @contextmanager
    def track(self, label: str, total: int, done: int = 0) -> Iterator[Quiet]:
        """Show nothing."""
        yield self

    def advance(self, steps: int = 1, **values: float) -> None:
        """Show nothing."""


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
