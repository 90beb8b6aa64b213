"""A tiny run, undisturbed, and copies of it up to a stage, which is struck there."""

from __future__ import annotations

import gc
import os
import re
import select
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from bas_cli.app import app
from bas_cli.commands.pipeline import of_stages
from benchmarks.children import STDERR, fork, wait
from benchmarks.faults import STAGES, watched
from benchmarks.faults.strikes import FAULTS, Fault, Place
from benchmarks.small_run import Silent
from stages import PIPELINE
from stages.actions import configure
from stages.actions.run import Run
from stages.core import manifest as manifests
from stages.core.files import TEMPORARY, write_json
from stages.data import demo

RECIPE: dict[str, Any] = {
    "base": "demo",
    "data": {"reader": "voc", "generate": None, "train": "train"},
    "runtime": {"device": "cpu", "precision": "32-true", "workers": 0, "threads": 1},
    "seed_train": {"resize": 64, "crop": 48, "batch": 2, "epochs": 2, "warmup_epochs": 1},
    "seed_infer": {"scales": [1.0], "thresholds": 3, "sources": ["bas"]},
    "cam_train": {"backbone": "tiny", "weights": "none", "long_side": [64, 72], "crop": 48, "batch": 2, "epochs": 1},
    "irn_labels": {"iterations": 1},
    "irn_train": {"crop": 48, "radius": 5, "batch": 2, "epochs": 2, "centre_images": 2, "displacement": True},
    "irn_masks": {"exp_times": 2, "crf": True, "iterations": 1},
    "mask_choice": {"images": 2, "iterations": 1},
    "segment_train": {"steps": 3, "batch": 2, "crop": 48},
    "segment_predict": {"scales": [1.0], "crf_iterations": 1},
}
IMAGES, VAL = 4, 2
COMMAND = "only"  # a command for one stage, as most have one of their own
PATIENCE = 300  # seconds after which a process is taken for hung
HUNG = 124
WORKERS = 2


@dataclass(frozen=True)
class Ended:
    """How a process ended, and its standard error."""

    code: int
    err: str


class Scene:
    """A dataset, an undisturbed run of every stage, and a small disk for struck copies of it."""

    def __init__(self, home: Path, disk: Path) -> None:
        self.home, self.whole = home, home / "whole"
        self.place = Place(disk / "run", demo.generate(home / "data", IMAGES, VAL, size=64), disk / "filler")
        self.config = home / "tiny.yaml"
        write_json(self.config, {**RECIPE, "data": {**RECIPE["data"], "root": str(self.place.data)}})
        self._end = ""
        Figure.savefig = _blank  # to draw the curves would be three quarters of all that a tiny stage does

    def finish(self, stages: Sequence[str]) -> None:
        """Take STAGES of the undisturbed run to their end, in this very process: what that imports, its copies need not."""
        for _ in Run(self.whole, configure.resolve(str(self.config))).execute(stages, Silent()):
            gc.collect()
            gc.freeze()
        self._end = [stage for stage in stages if stage in PIPELINE][-1]

    def points(self, stage: str) -> dict[str, int]:
        """How many points STAGE has for every fault: its deeds are counted once without workers and once with two."""
        seen: Counter[tuple[str, bool]] = Counter()
        for workers in (0, WORKERS):
            self._copy(stage)
            ended = self._call(stage, workers, partial(watched.tell, self.home, self.place))
            if ended.code:
                raise RuntimeError(f"{stage} fails while it is watched: {ended.err}")
            seen |= Counter({key: number for key, number in watched.told(self.home).items() if key[1] == bool(workers)})
        return {name: sum(seen[kind, fault.workers] for kind in fault.kinds) for name, fault in FAULTS.items()}

    def strike(self, stage: str, fault: Fault, point: int, to_end: bool = False) -> str:
        """Strike STAGE at POINT and call again; "" where that ends as the undisturbed run, else what is wrong.

        The second call is `bas run` to STAGE, or TO_END to all that follows; for what is not in the pipeline, its own command.
        """
        until = self._end if to_end and stage in PIPELINE else stage
        self._copy(stage)
        workers = WORKERS if fault.workers else 0
        struck = self._call(stage, workers, partial(watched.strike, fault, point, self.place))
        self.place.filler.unlink(missing_ok=True)
        return _wrong_end(struck, fault) or self._difference(stage, until, self._call(until))

    def _copy(self, stage: str) -> None:
        """The undisturbed run as it was before STAGE, on the small disk."""
        shutil.rmtree(self.place.run, ignore_errors=True)
        unwanted = shutil.ignore_patterns("logs", ".lock", "state.pth", "tensorboard", *STAGES[STAGES.index(stage) :])
        shutil.copytree(self.whole, self.place.run, ignore=unwanted)

    def _call(self, until: str, workers: int = 0, prepare: Callable[[], None] = lambda: None) -> Ended:
        """`bas run --until UNTIL`, or the command of that stage alone where it is none of the pipeline.

        In a copy of this process that PREPARE changes first.
        """

        def changed() -> None:
            app.command(COMMAND)(of_stages(until))
            prepare()

        command = ("run", str(self.config), "--until", until) if until in PIPELINE else (COMMAND, str(self.config))
        words = (*command, "--run", str(self.place.run), "--set", f"runtime.workers={workers}", "-q")
        child = fork(self.home, *words, prepare=changed)
        if not _ends(child, PATIENCE):
            os.kill(child, signal.SIGKILL)
            wait(child)
            return Ended(HUNG, "")
        return Ended(wait(child), (self.home / STDERR).read_text())

    def _difference(self, stage: str, until: str, again: Ended) -> str:
        """How the stages from STAGE to UNTIL differ from the undisturbed ones after a second call, in words."""
        if again.code:
            return f"run again, it ends with {again.code}: {again.err.strip()[-300:]}"
        made = STAGES[STAGES.index(stage) : STAGES.index(until) + 1]
        return next(filter(None, map(self._differs, made)), "")

    def _differs(self, stage: str) -> str:
        expected, found = (manifests.read_manifest(run / stage) or {} for run in (self.whole, self.place.run))
        for kind in ("digest", "metrics"):
            if expected[kind] != found.get(kind):
                return f"run again, the {kind} of {stage} is another: {found.get(kind)} in place of {expected[kind]}"
        damaged = manifests.verify(self.place.run / stage, lambda: None)
        left = [path.name for path in (self.place.run / stage).rglob(f".*{TEMPORARY}*")]
        return f"run again, {damaged or left} {'damaged' if damaged else 'left over'}" if damaged or left else ""


def _ends(child: int, seconds: float) -> bool:
    """Whether the process CHILD ends within SECONDS."""
    with open(os.pidfd_open(child), "rb", buffering=0) as ended:
        return bool(select.select([ended], [], [], seconds)[0])


def _blank(self: Figure, fname: Any, *, transparent: bool | None = None, **settings: Any) -> None:
    """A picture of one pixel in place of a figure."""
    Image.new("L", (1, 1)).save(fname)


def _wrong_end(struck: Ended, fault: Fault) -> str:
    """What is wrong with how a struck process ended: its exit code, or not one line of error that says what is expected."""
    lines = [line for line in struck.err.splitlines() if not line.startswith("warning: ")]
    told = not lines if struck.code <= 0 else len(lines) == 1 and re.match(f"error: .*({fault.says})", lines[0])
    return "" if struck.code in fault.codes and told else f"ended with {struck.code}: {struck.err.strip()[-400:]}"
