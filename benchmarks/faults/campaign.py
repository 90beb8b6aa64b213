"""Every stage under every fault at every point, and the table of what was tried."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.faults.scene import Scene
from benchmarks.faults.strikes import FAULTS


@dataclass
class Tried:
    """Points of one fault, in all stages: how many were tried and how many of those went wrong, by stage."""

    points: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)


class Campaign:
    """Strikes one stage after another; tells on stderr what goes wrong, and how far it is."""

    def __init__(self, scene: Scene, faults: Sequence[str], every: int) -> None:
        self.scene, self._every = scene, every
        self.tried = {name: Tried() for name in faults}

    def run(self, stage: str) -> None:
        """Strike STAGE at every point of every fault, or at every so many; after each fault's last one, go on to the end."""
        counts, began = self.scene.points(stage), time.monotonic()
        for name, tried in self.tried.items():
            points = range(counts[name])[min(self._every // 2, counts[name] - 1) :: self._every]
            for point in points:
                wrong = self.scene.strike(stage, FAULTS[name], point, to_end=point == points[-1])
                tried.points[stage] += 1
                tried.wrong[stage] += bool(wrong)
                if wrong:
                    self._tell(f"{stage}, {FAULTS[name].words}, point {point} of {counts[name]}: {wrong}")
        count = sum(tried.points[stage] for tried in self.tried.values())
        self._tell(f"{stage}: {count} points in {time.monotonic() - began:.0f} s")

    def _tell(self, words: str) -> None:
        sys.stderr.write(words + "\n")
        sys.stderr.flush()


def table(tried: Mapping[str, Tried], stages: Sequence[str]) -> Iterator[str]:
    """A line of Markdown a fault: points tried in every one of STAGES, together, and how many went wrong."""
    yield f"| fault | {' | '.join(stages)} | together | ended otherwise |"
    yield f"|---|{'---|' * (len(stages) + 2)}"
    for name, one in tried.items():
        shown = (str(one.points[stage] or "–") for stage in stages)
        yield f"| {FAULTS[name].words} | {' | '.join(shown)} | {one.points.total()} | {one.wrong.total()} |"
    total = sum(one.points.total() for one in tried.values())
    sums = (str(sum(one.points[stage] for one in tried.values())) for stage in stages)
    yield f"| all | {' | '.join(sums)} | {total} | {sum(one.wrong.total() for one in tried.values())} |"
