"""How fast the command answers: help, status, and a finished run that is asked for again."""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

from benchmarks import measure
from benchmarks.measure import Measured
from benchmarks.small_run import devkit
from stages import PIPELINE
from stages.actions import card, configure
from stages.actions.predict import CHECKPOINT
from stages.actions.run import Run
from stages.core import manifest

CODE = "import sys; sys.argv[0] = 'bas'; from bas_cli.app import main; import atexit; {report}main()"
NOTES = {"images": 1, "steps": 1, "supervision": "pseudo", "weights": "imagenet"}  # what a model card tells of
REPORT = "atexit.register(lambda: print('torch' in sys.modules, file=sys.stderr)); "


def help_text() -> Measured:
    """`bas --help`, a process of its own."""
    return _answer(["--help"], 0.2, {}, Path())


def status() -> Measured:
    """`bas status` of a finished run of the demo's size: 1,000 images to train on, 300 to evaluate."""
    with TemporaryDirectory() as folder:
        run = finished_run(Path(folder), train=1000, score=1000, val=300)
        return _answer(["status", "--run", str(run)], 0.2, {"images": 1300}, Path(folder))


def rerun() -> Measured:
    """`bas run` of a finished run of VOC's size: 10,582 images to train on, 1,464 scored, 1,449 to evaluate."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        run = finished_run(folder, train=10582, score=1464, val=1449)
        words = ["run", "voc", "--data", str(folder / "data"), "--run", str(run)]
        return _answer(words, 1.0, {"images": 10582 + 1449}, folder)


def finished_run(folder: Path, train: int, score: int, val: int) -> Path:
    """A run of `voc` whose stages are all complete, with as many small outputs as the real ones have.

    Written by hand from the contract of a stage: fingerprints are the run's own, contents stand for nothing.
    """
    pixel = folder / "pixel.png"
    Image.new("RGB", (1, 1)).save(pixel)
    trained, evaluated = ([f"{prefix}_{index:06d}" for index in range(count)] for prefix, count in (("t", train), ("v", val)))
    devkit(folder / "data", {"train_aug": trained, "train": trained[:score], "val": evaluated}, pixel)
    run = Run(folder / "run", configure.resolve("voc", (), {"data": {"root": str(folder / "data")}}))
    run.folder.mkdir()
    run.save_config()
    each_image = ("seed_infer", "irn_labels", "irn_masks", "mask_choice")
    for stage in PIPELINE:
        _finish(run, stage, pixel, trained if stage in each_image else [])
    if run.reports()[-1].state != "done":
        raise RuntimeError(f"the made-up run is not done: {run.reports()}")
    return run.folder


def _finish(run: Run, stage: str, content: Path, ids: Sequence[str]) -> None:
    """The outputs and the manifest of one stage: a file an image and one more."""
    (run.folder / stage / "files").mkdir(parents=True)
    names = ["files/whole.png", *(f"files/{name}.png" for name in ids)]
    names += [CHECKPOINT] if stage in card.STAGES else []
    for name in names:
        (run.folder / stage / name).hardlink_to(content)
    facts = {"stage": stage, "seconds": 1.0, **run.runtime.facts(), "metrics": {}, "classes": {}, "notes": NOTES}
    manifest.write(run.folder / stage, run.wanted(stage), names, facts)


@dataclass(frozen=True)
class Answer:
    """A finished call: seconds on the wall, seconds of its own work, and its standard error."""

    wall: float
    own: float
    stderr: str


def _answer(words: list[str], limit: float, sizes: dict[str, int], folder: Path) -> Measured:
    """Median wall seconds of the command over several calls, the first not counted; torch must not be imported."""
    answers = [_call(words, folder, CODE.format(report="")) for _ in range(2 * measure.REPEATS + 1)][1:]
    median = statistics.median(answer.wall for answer in answers)
    imported = _call(words, folder, CODE.format(report=REPORT)).stderr.strip().splitlines()[-1] == "True"
    extra = {"torch_imported": imported, "cpu_seconds": statistics.median(answer.own for answer in answers)}
    return Measured(None, median <= limit and not imported, median, "s", sizes=sizes, extra=extra)


def _call(words: list[str], folder: Path, code: str) -> Answer:
    """One call of the command. Python keeps its compiled files, as it does unless told otherwise. Raises RuntimeError."""
    env = {key: value for key, value in os.environ.items() if key not in ("BAS_RUN", "PYTHONDONTWRITEBYTECODE")}
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=folder, env=env, capture_output=True, text=True)
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(f"bas {' '.join(words)} failed: {done.stderr[-500:]}")
    return Answer(seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stderr)
