"""A call of the command whose deeds are written down, or which is struck at one of them; its worker processes likewise."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

from benchmarks.faults.events import Event, watch
from benchmarks.faults.strikes import Fault, Place, spoilt_batches
from stages.core import processes, training
from stages.nets.mmseg import learn

LOG = "events.txt"  # a line of JSON an event: kind, whether a worker did it
BATCH = "batch"


def tell(folder: Path, place: Place) -> None:
    """In a copy of this process: write every deed to events.txt in FOLDER, until it ends."""
    log = os.open(folder / LOG, os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_TRUNC)
    home = os.getpid()

    def write(kind: str) -> None:
        os.write(log, (json.dumps([kind, os.getpid() != home]) + "\n").encode())

    _settle()
    spoilt_batches(lambda: write(BATCH), lambda number: False)
    watch(place.watched, lambda event: write(event.kind))


def told(folder: Path) -> Counter[tuple[str, bool]]:
    """How often each kind of deed was written down, apart for the process itself and its workers."""
    rows = (json.loads(line) for line in (folder / LOG).read_text().splitlines())
    return Counter((kind, worker) for kind, worker in rows)


def strike(fault: Fault, point: int, place: Place) -> None:
    """In a copy of this process: let FAULT strike at the deed number POINT of its kinds, or from there on."""
    home, count = os.getpid(), multiprocessing.Value("i", 0)

    def meet(event: Event) -> None:
        if event.kind not in fault.kinds or fault.workers != (os.getpid() != home):
            return
        with count.get_lock():
            number, count.value = count.value, count.value + 1
        if number == point or (fault.stays and number > point):
            fault.strike(event, place)

    _settle()
    spoilt_batches(lambda: None, lambda number: fault.batches and number == point)
    watch(place.watched, meet)


def _settle() -> None:
    """Keep the state of a training after every step, and start workers as copies of a process that has imported everything."""
    training.SAVE_SECONDS = 0.0
    settings = learn.settings
    learn.settings = lambda recipe, ctx: replace(settings(recipe, ctx), save_seconds=0.0)
    processes._method = lambda preload: multiprocessing.get_context("fork")
