"""The faults: what happens to a process at a point, which points they have, and how the command may end."""

from __future__ import annotations

import errno
import itertools
import math
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.faults.events import Event
from stages.core import loading

DAY = 86400
KILLED = -signal.SIGKILL
DONE, MENDABLE, INTERRUPTED = 0, 2, 130
HUGE = 1 << 52  # bytes that no machine has


@dataclass(frozen=True)
class Place:
    """Where a stage is struck: the run's folder, that of its images, and the file that fills its disk."""

    run: Path
    data: Path
    filler: Path

    @property
    def watched(self) -> tuple[str, str]:
        """What the paths begin with that count."""
        return f"{self.run}{os.sep}", f"{self.data}{os.sep}"


Strike = Callable[[Event, Place], None]


@dataclass(frozen=True)
class Fault:
    """One fault: in words, its strike, the events that are its points, the exit codes that it may lead to.

    SAYS: a pattern in the line of error. WORKERS: it strikes in worker processes. STAYS: from its point on, every event is
    struck. BATCHES: its points are batches of a training.
    """

    words: str
    strike: Strike
    kinds: tuple[str, ...]
    codes: tuple[int, ...]
    says: str = ""
    workers: bool = False
    stays: bool = False
    batches: bool = False


def _signal(number: signal.Signals) -> Strike:
    return lambda event, place: os.kill(os.getpid(), number)


def _tear(event: Event, place: Place) -> None:
    """Leave half of the file that was about to be renamed, unless it is a link to a finished one."""
    status = Path(event.source).stat()
    if status.st_nlink == 1:
        os.truncate(event.source, status.st_size // 2)
    os.kill(os.getpid(), signal.SIGKILL)


def fill(event: Event, place: Place) -> None:
    """Fill the disk to its last byte."""
    try:
        with place.filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 20))
    except OSError:
        with place.filler.open("ab", buffering=0) as file:
            _fill_up(file)


def _fill_up(file: Any) -> None:
    try:
        while True:
            file.write(bytes(512))
    except OSError:
        return


def _refuse(event: Event, place: Place) -> None:
    raise OSError(errno.EROFS, os.strerror(errno.EROFS), event.path)


def _exhaust(event: Event, place: Place) -> None:
    """Ask for memory that is not there, of torch or of NumPy: both say so in their own way."""
    if len(Path(event.path).name) % 2:
        torch.empty(HUGE, dtype=torch.uint8)
    np.empty(HUGE, np.uint8)


def _turn_back(event: Event, place: Place) -> None:
    """Set the clock back by a day: files that were written before are of tomorrow."""
    now = time.time
    time.time = lambda: now() - DAY
    for path in place.run.rglob("*"):
        status = path.stat()
        os.utime(path, (status.st_atime, status.st_mtime + DAY))


def _nothing(event: Event, place: Place) -> None:
    """What strikes at a batch strikes at no event."""


WRITES = ("write", "rename", "remove", "folder", "link")
KILL, GO_ON = _signal(signal.SIGKILL), "Run the same command again"
LACK = "memory|allocate"  # a decoder that lacks it names its image: a damaged one may ask for as much
FAULTS: dict[str, Fault] = {
    "kill": Fault("SIGKILL", KILL, WRITES, (KILLED,)),
    "torn": Fault("SIGKILL with half of a file written", _tear, ("rename",), (KILLED,)),
    "term": Fault("SIGTERM", _signal(signal.SIGTERM), ("rename",), (INTERRUPTED,), GO_ON),
    "int": Fault("Ctrl-C (SIGINT)", _signal(signal.SIGINT), ("rename",), (INTERRUPTED,), GO_ON),
    "full": Fault("full disk", fill, ("write",), (DONE, MENDABLE), "No space left on device"),
    "readonly": Fault("disk that becomes read-only", _refuse, WRITES, (DONE, MENDABLE), "Read-only file system", stays=True),
    "memory": Fault("no memory left", _exhaust, ("write",), (MENDABLE,), LACK),
    "clock": Fault("clock set back by a day", _turn_back, ("rename",), (DONE,)),
    "worker": Fault("worker killed, as for want of memory", KILL, ("read", "rename"), (MENDABLE,), "worker", workers=True),
    "workermem": Fault("no memory left in a worker", _exhaust, ("read", "rename"), (MENDABLE,), LACK, workers=True),
    "nan": Fault("loss that is not finite", _nothing, ("batch",), (MENDABLE,), "on images demo_", batches=True),
}


def spoilt_batches(tell: Callable[[], None], spoil: Callable[[int], bool]) -> None:
    """TELL of every batch that a training takes from now on; where SPOIL says so, its images are not numbers any more."""
    sound, numbers = loading._sound, itertools.count()

    def taken(batch: Any) -> Any:
        tell()
        return _spoil(sound(batch)) if spoil(next(numbers)) else sound(batch)

    loading._sound = taken


def _spoil(batch: Any) -> Any:
    """BATCH, of our own trainings or of mmsegmentation's, with images of NaN."""
    if isinstance(batch, dict):
        return {**batch, "inputs": [torch.full_like(image, math.nan, dtype=torch.float32) for image in batch["inputs"]]}
    return [torch.full_like(batch[0], math.nan), *batch[1:]]
