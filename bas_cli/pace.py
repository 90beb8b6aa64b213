"""How fast something goes and how long it will take, in words."""

from __future__ import annotations

import time
from collections.abc import Mapping


def clock(seconds: float) -> str:
    """SECONDS in words."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"


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
        return "" if self.finished else f"{clock((self._total - self.count) / self._rate)} left"


def words(values: Mapping[str, float]) -> str:
    """Named values in a few digits."""
    return "  ".join(f"{key} {value:.3g}" for key, value in values.items())
