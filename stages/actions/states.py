"""The state of stages as people see it, and the dataset of a run held still while they are compared with it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages import EXTRAS, PIPELINE
from stages.core import clock, inputs, lists
from stages.core.files import HashCache, held
from stages.data import demo
from stages.data.dataset import generated_root

if TYPE_CHECKING:
    from stages.data.dataset import Dataset

LOCK = ".lock"  # in a run's folder: held by the process that works in it


@dataclass(frozen=True)
class Report:
    """The state of one stage, for people and for --json."""

    name: str
    state: str
    why: str
    metrics: Mapping[str, float]
    seconds: float | None
    outputs: int

    def row(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "name": self.name,
            "state": self.state,
            "why": self.why,
            "metrics": dict(self.metrics),
            "seconds": self.seconds,
            "outputs": self.outputs,
        }


class Still:
    """The dataset of a run at one moment: each split is looked at once for all stages."""

    def __init__(self, data: Callable[[], Dataset]) -> None:
        self._data = data
        self._known: dict[str, str | None] = {}

    def digest(self, role: str, hashes: HashCache) -> str | None:
        """Content digest of a split."""
        if role not in self._known:
            self._known[role] = self._data().digest(role, hashes)
        return self._known[role]


def at_work(folder: Path) -> tuple[str, str]:
    """The stage that another process works at in a run's FOLDER and since when, in words; two empty words where none does.

    Before it has begun a stage, no name, and what it does.
    """
    if not held(folder / LOCK):
        return "", ""
    begun = {name: clock.since(folder / name) or 0.0 for name in (*PIPELINE, *EXTRAS, *lists.found(folder))}
    name = max(begun, key=lambda name: begun[name])
    if begun[name]:
        return name, f"running since {time.strftime('%Y-%m-%d %H:%M', time.localtime(begun[name]))}"
    made = demo.is_half_made(generated_root(folder))
    return "", "about to start: its images are being generated" if made else "about to start: another process is at work here"


def held_back(rows: Iterable[tuple[Report, Sequence[str]]]) -> list[Report]:
    """The reports of ROWS, each with what its stage reads, in their order; a done one whose input is not done is stale itself."""
    told: list[Report] = []
    behind: dict[str, str] = {}
    for row, needed in rows:
        waiting = next((need for need in needed if need in behind), None)
        if row.state == "done" and waiting is not None:
            row = replace(row, state="stale", why=f"its input {waiting} is {behind[waiting]}")
        if row.state != "done":
            behind[row.name] = row.state
        told.append(row)
    return told


def stale_inputs(name: str, needed: Sequence[str], rows: Mapping[str, Report]) -> Iterator[str]:
    """What is to be told before stage NAME reads, of what it NEEDED, something stale."""
    for need in needed:
        if need in rows and rows[need].state == "stale":
            command = inputs.brought(need)
            remedy = f"Run `bas {command}` again" if command else "`bas run` makes both anew"
            yield f"{name} reads {need}, which is stale: {rows[need].why}. {remedy}"


def with_beginning(rows: list[Report], at_work: tuple[str, str]) -> list[Report]:
    """ROWS; where another process is AT_WORK and has begun no stage yet, the first that is missing says so."""
    stage, words = at_work
    first = next((index for index, row in enumerate(rows) if row.state == "missing"), None)
    if words and not stage and first is not None:
        rows[first] = replace(rows[first], why=words)
    return rows
